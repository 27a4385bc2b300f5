"""Graphs of strangers: every kind is one error, before anything is built; no file is read; little memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_graphs import TABLE, TENSORS, W, kinds, model, stored
from onnx import TensorProto, helper

from featherweight.activations import Affine
from featherweight.artifact import Contents, Initialiser, Raw, dumps, loads
from featherweight.errors import IntegrityError
from featherweight.export import build_onnx
from featherweight.export.linear import build_linear
from featherweight.export.qdq import build_qdq
from featherweight.formats import Int
from featherweight.runtime import Session

MEGABYTE = 1 << 20


@pytest.mark.parametrize(("graph", "message"), [pytest.param(*rest, id=name) for name, *rest in kinds()])
def test_every_kind_is_one_error(graph, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    tensors = {**TENSORS, "large": np.zeros((1000, 1000), np.float32)}
    content = dumps(Contents({name: Raw.of(array) for name, array in tensors.items()}, graph=graph))
    for build in (lambda: build_onnx(graph, tensors), lambda: loads(content).session()):
        with pytest.raises(IntegrityError, match=message) as caught:
            build()
        assert len(str(caught.value)) < 600
        assert "\n" not in str(caught.value)


def test_the_graph_that_they_are_made_of_runs():
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected = np.maximum(x @ W.T, 0)
    np.testing.assert_allclose(Session.of(stored(model()), TENSORS).run(x), expected, rtol=1e-5, atol=1e-5)


def test_entries_that_nothing_reads_are_not_built():
    table = [*TABLE, *(Initialiser(f"w{n}", "fc") for n in range(1000))]
    built = build_onnx(stored(model(), table), TENSORS)
    assert {tensor.name for tensor in built.graph.initializer} == {"low", "c", "w", "b"}


def test_what_branches_read_is_built():
    inner = helper.make_graph(
        [helper.make_node("Add", ["fc", "deep"], ["z"])], "s", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    truth = helper.make_node(
        "Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])
    )
    made = model([truth, helper.make_node("If", ["t"], ["u"], then_branch=inner, else_branch=inner)])
    built = build_onnx(stored(made, [*TABLE, Initialiser("deep", "bias")]), TENSORS)
    assert "deep" in {tensor.name for tensor in built.graph.initializer}


@pytest.mark.parametrize("to", ["qdq", "dynamic", "nbits"])
def test_one_weight_of_many_layers_is_stored_once_in_integers(to):
    weight = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["v0"])]
    nodes += [helper.make_node("MatMul", [f"v{n}", "w"], [f"v{n + 1}"]) for n in range(99)]
    nodes += [helper.make_node("Neg", ["v99"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 40]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    made = stored(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        [Initialiser("w", "w", (1, 0))],
    )
    encoded = {"w": Int(bits=4, per=32 if to == "nbits" else "channel").encode(weight)}
    if to == "qdq":
        edges = {name: Affine(0.125, 0, 8, True) for name in ("x", *(f"v{n}" for n in range(100)))}
        built = build_qdq(made, {"w": encoded["w"].decode()}, encoded, edges).onnx
    else:
        built = build_linear(made, {"w": encoded["w"].decode()}, encoded, to).onnx
    assert sum(np.prod(tensor.dims) >= 800 for tensor in built.graph.initializer) == 1
    Session.of_onnx(built).run(np.ones((2, 40), np.float32))


def test_damage_is_refused_or_builds_within_64_megabytes():
    path = [str(Path(__file__).parent), *sys.path]
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "fuzz.py"), "graphs", "2000", "20261129"],
        capture_output=True, text=True, env={"PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["refused"] > 500
    assert result["lines"] <= 1
    assert result["memory"] < 64 * MEGABYTE
