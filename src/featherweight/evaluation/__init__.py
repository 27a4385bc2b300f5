"""Measuring: metrics of models and files, paired tests, agreement of runtimes, parity of layers."""
