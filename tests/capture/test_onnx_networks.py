"""Networks go to ONNX and come back: the same numbers, the same names, the same everything behind."""

import contextlib
import io
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch.export import Dim
from zoo.zoo_table import ZOO, with_numbers

from featherweight.capture import trace
from featherweight.capture.onnx import check_against_runtime, read_network
from featherweight.capture.program import capture
from featherweight.export import build_onnx
from featherweight.export.check import arrays
from featherweight.export.onnx import export

QUICK = ["lenet5", "resnet20", "mobilenetv2-32", "squeezenet-32"]
# The largest say nothing that the others do not.
ROUND = [
    name
    for name in ZOO
    if name not in {"resnet152", "resnet32", "resnet44", "resnet56", "resnet50", "alexnet"}
]
EXPORTS = {
    "dynamo": {"dynamo": True, "external_data": False, "verbose": False, "dynamic_shapes": ({0: Dim.DYNAMIC},)},
    "script": {"dynamo": False, "dynamic_axes": {"x": {0: "n"}}},
    "script, batch norm kept": {
        "dynamo": False, "dynamic_axes": {"x": {0: "n"}}, "do_constant_folding": False,
        "training": torch.onnx.TrainingMode.PRESERVE,
    },
}  # fmt: skip


def written(network, x, path, how):
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        torch.onnx.export(network, (x,), str(path), input_names=["x"], **EXPORTS[how])
    return path


@pytest.mark.parametrize("how", EXPORTS)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ROUND]
)
def test_a_network_of_the_zoo_comes_back(name, how, tmp_path):
    network, x = (
        with_numbers(name),
        torch.randn(2, *ZOO[name].shape, generator=torch.Generator().manual_seed(1)),
    )
    path = written(network, x, tmp_path / "network.onnx", how)
    back = read_network(path)
    check_against_runtime(back, path, {"x": x.numpy()})
    with torch.no_grad():
        expected, found = network(x), back(x)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    if "kept" in how:
        assert set(back.state_dict()) == set(network.state_dict())


def test_it_is_captured_and_exported_with_its_batch_free(tmp_path):
    network, x = with_numbers("mobilenetv2-32"), torch.randn(2, 3, 32, 32)
    back = read_network(written(network, x, tmp_path / "network.onnx", "script"))
    program, ours = capture(back, {"x": x}), trace(network, x)
    assert [node.op for node in program.graph.nodes if node.tensors] == [
        "conv2d" if node.op == "batch_norm" else node.op
        for node in ours.nodes
        if node.tensors and node.op != "batch_norm"
    ]
    stored = export(back, {"x": x}, captured=program)
    session = onnxruntime.InferenceSession(build_onnx(stored, arrays(back)).SerializeToString())
    other = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: other})
    with torch.no_grad():
        expected = network(torch.from_numpy(other)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
