"""Heads of a network from ONNX: its reshapes say no number of heads, and mean the same."""

import attention_networks as networks
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from featherweight import from_onnx
from featherweight.capture.onnx import read_network
from featherweight.model import Model
from featherweight.task import Restricted
from featherweight.techniques import Context, Prune
from featherweight.techniques.saliencies import Magnitude

RESHAPES = [
    (("b", 5, 12), (-1, 5, 3, 4), (0, 0, -1, 4)),
    (("b", 5, 36), (0, 5, 3, 3, 4), (0, 0, 3, -1, 4)),
    (("b", 5, 3, 4), (-1, 5, 12), (0, 0, -1)),
    (("b", 2, 3, 4), (-1, 24), (0, -1)),
    ((2, 5, 12), (2, 5, 3, 4), (0, 0, -1, 4)),
    (("b", 5, 12), (-1, 12), (-1, 12)),
    (("b", 6, 12), (-1, 3, 24), (-1, 3, 24)),
    (("b", 4, 6), (-1, 6, 2, 2), (-1, 6, 2, 2)),
]


@pytest.mark.parametrize(("old", "new", "kept"), RESHAPES)
def test_a_reshape_with_constants_means_the_same_and_leaves_the_number_of_heads_open(
    old, new, kept, tmp_path
):
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "sizes"], ["y"], name="cut")],
        "reshape",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, old)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"n{axis}" for axis in range(len(new))])],
        [numpy_helper.from_array(np.array(new, np.int64), "sizes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    network = read_network(tmp_path / "model.onnx")
    x = np.random.default_rng(0).random([2 if n == "b" else n for n in old], np.float32)
    sizes = [x.shape[axis] if n == 0 else n for axis, n in enumerate(new)]
    np.testing.assert_array_equal(network(torch.from_numpy(x)).numpy(), x.reshape(sizes))
    (known,) = [value.numbers.tolist() for value in network._known.values()]
    assert tuple(known) == kept


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_heads_of_a_network_from_onnx_are_pruned_whatever_its_class_held(tmp_path):
    torch.manual_seed(0)
    x, batch = torch.randn(8, 1, 4, 4), torch.export.Dim("batch")
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        networks.TimmVit().eval(), (x,), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    task = from_onnx(path, {"x": torch.randn(32, 1, 4, 4).numpy()})
    step = Prune(keep=0.7, of="channels", saliency=Magnitude())
    model = step.apply(Model.of(task.model()), Restricted(task, "none"), Context())
    assert sum("of 3 heads" in note.reason for note in model.notes if note.kind == "chose") == 2
