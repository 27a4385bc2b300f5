"""The doctor on files of anyone's: what they store twice, in float, or as one number; IR and LiteRT as well as ONNX."""

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from featherweight.deploy.litert_runtime import make_litert
from featherweight.doctor import diagnose
from featherweight.doctor.stored import Held, size_of_stored
from featherweight.engines import openvino_core
from featherweight.errors import IntegrityError

rng = np.random.default_rng(5)
pytest.importorskip("ai_edge_litert")


def model() -> onnx.ModelProto:
    """Two layers of one weight, stored twice, and a large sum of one number."""
    weight, ones = rng.standard_normal((64, 64)).astype(np.float32), np.ones((64, 64), np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "first"], ["a"], name="one"),
        helper.make_node("Gemm", ["a", "second"], ["b"], name="two"),
        helper.make_node("Add", ["b", "ones"], ["y"]),
    ]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [numpy_helper.from_array(a, n) for n, a in (("first", weight), ("second", weight), ("ones", ones))],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def files(tmp_path):
    made = model()
    onnx.save(made, tmp_path / "m.onnx")
    openvino.save_model(
        openvino_core().read_model(tmp_path / "m.onnx"), tmp_path / "m.xml", compress_to_fp16=False
    )
    (tmp_path / "m.tflite").write_bytes(make_litert(made, {}).files[".tflite"])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("m.onnx", {"stored as floats", "duplicates", "constants", "float"}),
        ("m.xml", {"stored as floats", "constants", "float"}),
        ("m.tflite", {"stored as floats", "constants", "float"}),
    ],
)
def test_each_kind_of_file_is_read(files, name, kinds):
    found = {finding.kind: finding for finding in diagnose(files / name, ["onnxruntime"])}
    assert kinds <= set(found)
    assert "one" in found["float"].where or name == "m.tflite"
    assert found["stored as floats"].about == "size"


def test_layers_in_integers_are_no_finding(files):
    weight = rng.integers(-127, 127, (64, 64)).astype(np.int8)
    weight[0] = 7
    held = [Held.of("w", weight), Held.of("scale", np.float32(rng.random(64)))]
    assert not [*size_of_stored(held, 4096)]


def test_equal_numbers_of_other_shapes_are_no_duplicates():
    array = rng.standard_normal(4096).astype(np.float32)
    held = [Held.of("a", array), Held.of("b", array.reshape(64, 64))]
    assert "duplicates" not in {finding.kind for finding in size_of_stored(held, 20000)}
    held.append(Held.of("c", array))
    assert "duplicates" in {finding.kind for finding in size_of_stored(held, 20000)}


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "another"])
def test_a_damaged_litert_file_is_one_error(files, damage):
    whole = (files / "m.tflite").read_bytes()
    content = {
        "empty": b"", "cut": whole[:200], "another": b"1234" + whole,
        "noise": whole[:8] + bytes(rng.integers(0, 256, 400, np.uint8)),
    }[damage]  # fmt: skip
    (files / "bad.tflite").write_bytes(content)
    with pytest.raises(IntegrityError, match="LiteRT file"):
        diagnose(files / "bad.tflite", [])


def test_a_damaged_ir_is_one_error(files):
    (files / "bad.xml").write_text("<net></net")
    with pytest.raises(IntegrityError, match="OpenVINO cannot read it"):
        diagnose(files / "bad.xml", [])
    (files / "m.bin").unlink()
    with pytest.raises(IntegrityError, match="OpenVINO cannot read it"):
        diagnose(files / "m.xml", [])
