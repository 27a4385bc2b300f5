"""Surrogates: what stands in for a weight while it trains. Importing one imports torch; `methods` does not."""
