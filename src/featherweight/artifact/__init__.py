"""The `.fw` file: everything a user keeps of a compressed network, in one file. Loading it needs no torch."""

from featherweight.artifact.artifact import Artifact, Change, Index, Row, Side, diff
from featherweight.artifact.contents import Contents, Initialiser, Raw, StoredGraph
from featherweight.artifact.file import dumps, load, loads, pieces, write

__all__ = [
    "Artifact", "Change", "Contents", "Index", "Initialiser", "Raw", "Row", "Side", "StoredGraph", "diff", "dumps",
    "load", "loads", "pieces", "write",
]  # fmt: skip
