"""Data sets: fetched once, checked by SHA-256, read by index."""
