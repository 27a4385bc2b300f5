"""Training: one loop, the options it takes, and the methods by which a tensor trains towards its encoded form."""
