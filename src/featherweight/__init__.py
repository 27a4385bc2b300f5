"""featherweight: compress neural networks for the hardware they run on, from data to silicon."""

__version__ = "0.1.0"
