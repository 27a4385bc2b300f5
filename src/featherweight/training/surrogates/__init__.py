"""Surrogates: what stands in for a weight while it trains. They import torch; `methods` does not."""
