"""Sessions without torch: errors for every wrong input, damaged graphs, equal bits, no torch imported."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from featherweight.artifact import Contents, Initialiser, Raw, StoredGraph, dumps, loads
from featherweight.errors import ConfigError, IntegrityError, MissingExtraError, UnsupportedError
from featherweight.export import build_onnx
from featherweight.runtime import BACKENDS, Session, session

TURNED = (Initialiser("w", "fc", (1, 0)),)
W = np.arange(12, dtype=np.float32).reshape(3, 4)


def stored(op="MatMul", table=TURNED, outputs=0, constants=()):
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n0", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return StoredGraph(model.SerializeToString(), tuple(table), outputs)


def test_run_by_array_tuple_and_name():
    runs = Session.of(stored(outputs={"a": [0, None]}), {"fc": W})
    x = np.ones((2, 4), np.float32)
    for inputs in (x, (x,), {"x": x}):
        result = runs.run(inputs)
        np.testing.assert_array_equal(result["a"][0], x @ W.T)
        assert result["a"][1] is None
    assert [(i.name, i.dtype, i.shape) for i in runs.inputs] == [("x", "float32", ("n0", 4))]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.ones((2, 5), np.float32), r"x: shape of an input: got \[2, 5\], expected \['n0', 4\]"),
        (np.ones(4, np.float32), "shape of an input"),
        (np.ones((2, 4)), "x: type of an input: got float64, expected float32"),
        ({"y": np.ones((2, 4), np.float32)}, r"names of inputs: got y, expected x: float32\['n0', 4\]"),
        ((np.ones((2, 4), np.float32),) * 2, "number of inputs: got 2, expected 1"),
        ((), "number of inputs: got 0"),
    ],
)
def test_wrong_inputs_are_one_clear_error(inputs, message):
    with pytest.raises(ConfigError, match=message):
        Session.of(stored(), {"fc": W}).run(inputs)


def test_the_table_is_applied_and_the_model_is_complete():
    reshaped = (Initialiser("w", "fc", (1, 0), (2, 2, 3)),)
    model = build_onnx(stored(table=reshaped), {"fc": W})
    (weight,) = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    np.testing.assert_array_equal(weight, W.T.reshape(2, 2, 3))
    assert not np.shares_memory(weight, W)


def test_a_stub_gives_the_type():
    stub = TensorProto(name="w", data_type=TensorProto.DOUBLE)
    model = build_onnx(stored(constants=[stub]), {"fc": W})
    assert [t.data_type for t in model.graph.initializer] == [TensorProto.DOUBLE]


def test_damaged_graphs_are_refused():
    with pytest.raises(IntegrityError, match="not an ONNX model"):
        build_onnx(StoredGraph(b"\xff\xff\xff", ()), {})
    with pytest.raises(IntegrityError, match="fc: the stored graph needs a tensor"):
        build_onnx(stored(), {})
    with pytest.raises(IntegrityError, match="fc: does not fit"):
        build_onnx(stored(table=(Initialiser("w", "fc", (0,)),)), {"fc": W})
    with pytest.raises(IntegrityError, match="fc: does not fit"):
        build_onnx(stored(table=(Initialiser("w", "fc", (), (5,)),)), {"fc": W})
    for nest in (1, -1, True, 0.0, "0", [0, {"a": 7}]):
        with pytest.raises(IntegrityError, match="not an output"):
            Session.of(stored(outputs=nest), {"fc": W})


def test_a_graph_cannot_read_other_files():
    outside = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(IntegrityError, match="other files"):
        build_onnx(stored(constants=[outside]), {"fc": W})


def test_what_the_runtime_refuses_is_one_error():
    with pytest.raises(UnsupportedError, match="ONNX Runtime cannot run"):
        Session.of(stored(op="NoSuchOperator"), {"fc": W})
    with pytest.raises(ConfigError, match="threads"):
        Session.of(stored(), {"fc": W}, threads=0)


def test_a_file_without_a_graph_says_why():
    artifact = SimpleNamespace(
        graph=None, activations={}, facts={"graph": "fc cannot be traced"}, weights=dict
    )
    with pytest.raises(UnsupportedError, match="no graph to run: fc cannot be traced"):
        session(artifact)


def test_a_file_runs_with_equal_bits_each_time():
    artifact = loads(dumps(Contents({"fc": Raw.of(W)}, graph=stored())))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    first, second = (session(artifact, threads=threads).run(x) for threads in (1, 1))
    np.testing.assert_array_equal(first, second)


def test_sessions_need_no_torch():
    code = "import sys, featherweight.runtime; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_after_sessions_that_overlapped_does_no_harm():
    """Like Ctrl-C, or a DataLoader's worker that ends: Python handles it on the thread's alternate stack."""
    code = """
import signal
import onnx
from onnx import TensorProto, helper
from featherweight.engines import openvino_model

values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
opsets = [helper.make_opsetid("", 20)]
content = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
first, second = openvino_model(content, 1), openvino_model(content, 1)
del first
del second
signal.signal(signal.SIGUSR1, lambda *given: print("heard"))
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_a_backend_of_another_package(monkeypatch):
    class Constant:
        name, title, absent = "constant", "Constant", ""

        def missing(self):
            return self.absent

        def open(self, graph, tensors, weights, activations, *, threads):
            return lambda inputs: [np.full((1, threads), len(tensors))]

    monkeypatch.setitem(BACKENDS, "constant", Constant())

    def opened(runtime):
        return Session.of(stored(), {"fc": W}, runtime=runtime, threads=3)

    assert opened("constant").run(np.ones((2, 4), np.float32)).tolist() == [[1, 1, 1]]
    monkeypatch.setattr(Constant, "absent", "no such chip")
    with pytest.raises(MissingExtraError, match="Constant: no such chip"):
        opened("constant")
    with pytest.raises(ConfigError, match="got nosuch, expected onnxruntime, openvino, constant"):
        opened("nosuch")
