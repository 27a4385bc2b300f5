"""Low rank: ranks from singular values, and layers as products of thinner ones."""
