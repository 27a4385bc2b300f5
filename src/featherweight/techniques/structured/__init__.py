"""Pruning and widening of coupled channels: surgery, trial, selection."""
