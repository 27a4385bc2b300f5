"""The read-only graph of a network as data, and rules over it: folding sites, quantized edges, coupled channels."""

from featherweight.graph.folding import FoldSite, fold_sites
from featherweight.graph.graph import Edge, Graph, Node, Operand

__all__ = ["Edge", "FoldSite", "Graph", "Node", "Operand", "fold_sites"]
