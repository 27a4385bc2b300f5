"""One rule, two graphs: what of a network computes in integers, read from the traced graph and from the ONNX graph."""

import numpy as np
import pytest
from networks import NETWORKS, exported, traced

from featherweight.activations import Affine
from featherweight.export import build_qdq, unknown_edges
from featherweight.export.check import arrays
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.simulation import plan_of

BUILT = [name for name, network in NETWORKS.items() if not network.refused]


def quantized(name):
    """A network with a quantizer on every float edge that its ONNX graph has, and every matrix in int8."""
    module, _, stored = exported(name)
    graph = traced(name)[2]
    tensors = arrays(module)
    weights = {
        path: Int().encode(array, view=graph.views[path])
        for path, array in tensors.items()
        if path in graph.views and array.dtype == np.float32 and array.ndim > 1 and array.size
    }
    unknown = unknown_edges(stored, (node.name for node in graph.nodes))
    activations = {
        node.name: Affine.of(-1 - number / 8, 2)
        for number, node in enumerate(graph.nodes)
        if node.dtype == "float32" and node.name not in unknown
    }
    return Model(module, {}, weights, activations), stored, graph


@pytest.mark.parametrize("name", BUILT)
def test_the_two_plans_are_one(name):
    model, stored, graph = quantized(name)
    ours = plan_of(model, {node.name: node for node in graph.nodes})
    theirs = build_qdq(stored, arrays(model.module), model.weights, model.activations).plan
    by_hand = (
        theirs.layers.keys() - ours.layers.keys()
    )  # ONNX has one operator for linear(x, w) and for x @ w.t()
    assert {graph.node(edge).op for edge in by_hand} <= {
        "matmul"
    } and ours.layers.keys() <= theirs.layers.keys()
    for edge, layer in ours.layers.items():
        for field in ("weight", "scale", "axis", "bias", "bias_scale"):
            np.testing.assert_array_equal(getattr(layer, field), getattr(theirs.layers[edge], field))
    assert ours.averages == theirs.averages
    assert ours.joins == theirs.joins
    assert ours.floats == theirs.floats
