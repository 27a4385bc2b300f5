"""The read-only graph of a network: activations, layers, views of weights, folding sites."""

from featherweight.graph.folding import FoldSite, fold_sites
from featherweight.graph.graph import Edge, Graph, Layer, Node
from featherweight.graph.program import trace
from featherweight.graph.views import canonical_names, views

__all__ = ["Edge", "FoldSite", "Graph", "Layer", "Node", "canonical_names", "fold_sites", "trace", "views"]
