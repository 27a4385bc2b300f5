"""Data sets: fetched once, checked by SHA-256, read by index."""

from featherweight.data.fetch import Asset, fetch
from featherweight.data.indexed import Indexed, Subset, held_out, permutation

__all__ = ["Asset", "Indexed", "Subset", "fetch", "held_out", "permutation"]
