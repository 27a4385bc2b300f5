"""Real networks as they are published: where they come from, data for them, and how each is judged."""
