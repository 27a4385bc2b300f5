"""Coupled channels: labels follow channels through the network's operators and gather them into groups."""

from featherweight.graph.coupling.couple import couple, unshapeable

__all__ = ["couple", "unshapeable"]
