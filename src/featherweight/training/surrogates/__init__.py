"""Surrogates: modules that replace a weight while it trains. They import torch; `methods` does not."""
