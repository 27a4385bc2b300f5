"""Training: one loop, the options it takes, and the methods by which tensors train towards a format."""
