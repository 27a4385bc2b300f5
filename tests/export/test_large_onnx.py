"""Models whose weights lie beside them: written, read, run by path; the limit of 2 GiB is a small one here."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from small_onnx import small_onnx

import featherweight
from featherweight.artifact import Initialiser, StoredGraph
from featherweight.engines import openvino_model
from featherweight.errors import UnsupportedError, WriteError
from featherweight.export import onnx_of, opened_onnx, qdq_of, read_onnx, serialized, write_onnx
from featherweight.export.large import DATA, SMALL, nbytes, shapes_of
from featherweight.runtime import Session
from featherweight.techniques import Calibrate, Encode

X = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)


def scores(source, x=X):
    source = source if isinstance(source, bytes) else str(source)
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, {"pixels": x})[
        0
    ]


@pytest.fixture
def model(tmp_path):
    return onnx.load(small_onnx("classes", tmp_path))


def lower(monkeypatch, limit):
    """Lower the limit of one ONNX file for the whole library."""
    monkeypatch.setattr("featherweight.export.float_graph.MOST_ONNX", limit)
    monkeypatch.setattr("featherweight.runtime.backend.MOST_ONNX", limit)


def test_weights_beyond_the_limit_lie_beside_the_model(model, tmp_path):
    whole = write_onnx(model, tmp_path / "one.onnx", limit=nbytes(model))
    assert whole == (tmp_path / "one.onnx",)
    parts = write_onnx(model, tmp_path / "two.onnx", limit=nbytes(model) - 1)
    assert [path.name for path in parts] == ["two.onnx", "two.onnx" + DATA]
    large = sum(len(t.raw_data) for t in model.graph.initializer if len(t.raw_data) >= SMALL)
    assert parts[0].stat().st_size < 1000 + nbytes(model) - large
    np.testing.assert_array_equal(scores(parts[0]), scores(serialized(model)))
    np.testing.assert_array_equal(
        openvino_model(parts[0], 1)({"pixels": X})[0], openvino_model(serialized(model), 1)({"pixels": X})[0]
    )
    onnx.checker.check_model(str(parts[0]))
    back = {t.name: onnx.numpy_helper.to_array(t) for t in read_onnx(parts[0]).graph.initializer}
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(back[tensor.name], onnx.numpy_helper.to_array(tensor))
    again = write_onnx(model, tmp_path / "again" / "two.onnx", limit=0)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in parts]


def test_a_failure_leaves_no_model_beside_weights_of_another(model, tmp_path, monkeypatch):
    path = tmp_path / "two.onnx"
    write_onnx(model, path, limit=0)
    (tmp_path / ("two.onnx" + DATA)).unlink()
    (tmp_path / ("two.onnx" + DATA)).mkdir()  # where no file can be written
    with pytest.raises(WriteError, match=r"two\.onnx\.data"):
        write_onnx(model, path, limit=0)
    assert not path.exists()


def test_a_runtime_opens_what_is_large_by_path_and_nothing_stays(model):
    with opened_onnx(model) as content:
        assert content == serialized(model)
    with opened_onnx(model, limit=0) as path:
        assert path.with_name(path.name + DATA).stat().st_size > nbytes(model)
        session = onnxruntime.InferenceSession(str(path))
    assert not path.exists()
    np.testing.assert_array_equal(session.run(None, {"pixels": X})[0], scores(serialized(model)))


def test_shapes_are_inferred_without_large_weights(model):
    def inferred(given):
        found = onnx.shape_inference.infer_shapes(given).graph.value_info
        return {value.name: value.type.SerializeToString() for value in found}

    assert inferred(shapes_of(model)) == inferred(model) != {}
    assert nbytes(shapes_of(model)) < nbytes(model)


def test_what_is_serialized_is_below_the_limit(model, monkeypatch):
    lower(monkeypatch, 1000)
    with pytest.raises(UnsupportedError, match="too large for one ONNX file"):
        serialized(model)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_sessions_of_weights_beyond_the_limit_compute_the_same(runtime, monkeypatch):
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(64, 16)).astype(np.float32)
    nodes = [onnx.helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0])]
    nodes.append(onnx.helper.make_node("MatMul", ["pixels", "t"], ["y"]))
    ends = [
        onnx.helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("pixels", 16), ("y", 64))
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    stored = StoredGraph(made.SerializeToString(), (Initialiser("w", "fc.weight"),), 0)
    expected = Session.of(stored, {"fc.weight": weight}, runtime=runtime).run(X)
    lower(monkeypatch, 1000)
    found = Session.of(stored, {"fc.weight": weight}, runtime=runtime).run(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_file_with_weights_beside_it_is_compressed_and_exported(tmp_path, monkeypatch):
    lower(monkeypatch, 600_000)
    wide = """<ir_version: 8, opset_import: ["": 17]> g (float[batch, 16] pixels) => (float[batch, 16] y)
    { h = Gemm(pixels, a) r = Relu(h) y = Gemm(r, b) }"""
    wide = onnx.parser.parse_model(wide)
    generator = np.random.default_rng(2)
    for name, shape in (("a", (16, 20_000)), ("b", (20_000, 16))):
        array = generator.normal(0, shape[0] ** -0.5, shape).astype(np.float32)
        wide.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    path = write_onnx(wide, tmp_path / "given.onnx", limit=0)[0]
    pixels = generator.normal(size=(40, 16)).astype(np.float32)
    task = featherweight.from_onnx(path, pixels)
    result = featherweight.compress(task, featherweight.Recipe([Encode(), Calibrate(samples=16)]), threads=1)
    assert result.summary.test["agreement"] > 0.8
    for name, made in (("float", onnx_of(result.artifact)), ("int8", qdq_of(result.artifact).onnx)):
        parts = write_onnx(made, tmp_path / f"{name}.onnx")
        assert len(parts) == 2
        expected = scores(path, pixels)
        assert np.abs(scores(parts[0], pixels) - expected).max() < 0.1 * np.abs(expected).max(), name
    session = result.artifact.session()
    np.testing.assert_allclose(session.run(pixels), scores(tmp_path / "int8.onnx", pixels), atol=1e-6)


def test_the_command_names_both_files(tmp_path):
    task = featherweight.from_onnx(small_onnx("classes", tmp_path), np.tile(X, (8, 1)))
    featherweight.compress(task, featherweight.Recipe([Encode()]), threads=1).save(tmp_path / "model.fw")
    code = """
import sys
from featherweight.export import float_graph
float_graph.MOST_ONNX = 1000
from featherweight.cli import main
sys.argv = ["featherweight", "export", *sys.argv[1:]]
main()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "model.fw"), "--to", "onnx"]
    plain = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "model.onnx, " in plain
    assert "model.onnx.data: " in plain
    said = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout)
    assert said["beside"] == [str(tmp_path / "model.onnx.data")]
    assert said["bytes"] == sum(
        (tmp_path / name).stat().st_size for name in ("model.onnx", "model.onnx.data")
    )
    assert scores(tmp_path / "model.onnx").shape == (5, 4)
