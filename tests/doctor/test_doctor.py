"""The doctor finds each planted fault, and none in a healthy file."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh
from torch import nn

from featherweight.doctor import diagnose, kernels, speed_findings
from featherweight.doctor.speed import named
from featherweight.engines import openvino_core
from featherweight.errors import IntegrityError
from featherweight.export import build_onnx
from featherweight.export.check import arrays
from featherweight.export.onnx import export


def quantized(*, activation=np.uint8, weights=np.int8, clamp=False, quantize_input=True):
    """A convolution of integers, by hand: sound unless told otherwise."""
    values = np.random.default_rng(0).integers(-7, 8, (16, 8, 3, 3))
    zero = 128 if activation == np.uint8 else 0
    stored = [
        nh.from_array(np.float32(0.02), "sx"),
        nh.from_array(np.array(zero, activation), "zx"),
        nh.from_array(np.float32(0.03), "sy"),
        nh.from_array(np.array(zero, activation), "zy"),
        nh.from_array(np.full(16, 0.01, np.float32), "sw"),
    ]
    nodes = [h.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"])] if quantize_input else []
    nodes += [h.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"])] if quantize_input else []
    if weights == np.float32:
        stored.append(nh.from_array(values.astype(np.float32) * 0.01, "wd"))
    else:
        kind = T.INT4 if weights == "int4" else T.INT8
        stored.append(h.make_tensor("w", kind, values.shape, values.reshape(-1).tolist()))
        stored.append(h.make_tensor("zw", kind, [16], [0] * 16))
        nodes.append(h.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0))
    nodes.append(
        h.make_node("Conv", ["xd" if quantize_input else "x", "wd"], ["c"], pads=[1] * 4, name="conv")
    )
    nodes += [h.make_node("Relu", ["c"], ["r"])] if clamp else []
    nodes.append(h.make_node("QuantizeLinear", ["r" if clamp else "c", "sy", "zy"], ["yq"]))
    nodes.append(h.make_node("DequantizeLinear", ["yq", "sy", "zy"], ["y"]))
    graph = h.make_graph(
        nodes, "graph",
        [h.make_tensor_value_info("x", T.FLOAT, ["n", 8, 16, 16])],
        [h.make_tensor_value_info("y", T.FLOAT, ["n", 16, 16, 16])], stored,
    )  # fmt: skip
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)


def kinds(findings):
    return {finding.kind for finding in findings}


def test_a_sound_graph_runs_in_integers():
    model = quantized()
    assert kinds(speed_findings(model, ["onnxruntime"])) == set()
    assert "int8" in {k.precision for k in kernels(named(model), "onnxruntime") if k.weighted}
    assert {k.precision for k in kernels(named(model), "openvino") if k.weighted} == {"int8"}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"activation": np.int8}, "signed activations"),
        ({"weights": "int4"}, "int4"),
        ({"clamp": True}, "clamp"),
        ({"quantize_input": False}, "float activations"),
        ({"weights": np.float32, "quantize_input": False}, "float"),
    ],
)
def test_planted_faults(fault, kind):
    found = speed_findings(quantized(**fault), ["onnxruntime"])
    assert kinds(found) == {kind}
    assert found[0].where == ["conv"]
    assert found[0].hint


def test_openvino_says_what_it_computes_floats_in():
    assert ("unpinned baseline" in kinds(speed_findings(quantized(), ["openvino"]))) == _prefers_less()
    assert "int4" in kinds(speed_findings(quantized(weights="int4"), ["openvino"]))


def _prefers_less():
    core = openvino_core()
    compiled = core.compile_model(core.read_model(quantized().SerializeToString()), "CPU")
    return compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != "f32"


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(nn.functional.adaptive_avg_pool2d(self.conv(x), 1).flatten(1))


def exported(example):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(Pooled().eval(), (example,), dynamo=True, verbose=False).model_proto


def test_an_export_from_a_channels_last_example():
    x = torch.randn(1, 3, 8, 8)
    assert "gather" not in kinds(speed_findings(exported(x), ["onnxruntime"]))
    assert "gather" in kinds(
        speed_findings(exported(x.contiguous(memory_format=torch.channels_last)), ["onnxruntime"])
    )


def test_signed_activations_keep_a_clamp_among_floats():
    assert kinds(speed_findings(quantized(activation=np.int8, clamp=True), ["onnxruntime"])) == {
        "clamp", "signed activations",
    }  # fmt: skip


def test_names_are_given_without_changing_the_graph():
    model = quantized()
    before = model.SerializeToString()
    assert len({node.name for node in named(model).graph.node}) == len(model.graph.node)
    assert model.SerializeToString() == before


def test_a_layer_that_an_activation_is_fused_into_keeps_its_name():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 3)
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network, (torch.randn(1, 3, 12, 12),), dynamo=True, verbose=False)
    (found,) = speed_findings(program.model_proto, ["onnxruntime"])
    layers = [node.name for node in named(program.model_proto).graph.node if node.op_type == "Conv"]
    assert found.kind == "float" and found.where == layers


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.GELU])
def test_every_linear_layer_counts_whatever_follows_it(activation):
    module = nn.Sequential(
        nn.Linear(6, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2)
    ).eval()
    model = build_onnx(export(module, torch.randn(2, 6)), arrays(module))
    (finding,) = speed_findings(model, ["onnxruntime"])
    assert finding.kind == "float" and finding.where == ["0", "2", "4"]


def test_a_node_may_have_the_name_of_the_value_that_it_reads():
    """Of another tool's graph: names of nodes and of values are two spaces."""
    module = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(), nn.Linear(8, 2)).eval()
    model = build_onnx(export(module, torch.randn(2, 6)), arrays(module))
    activation = next(node for node in model.graph.node if node.op_type == "LeakyRelu")
    activation.name = activation.input[0]
    (finding,) = speed_findings(model, ["onnxruntime"])
    assert finding.where == ["0", "2"]


def test_a_runtime_that_refuses_a_graph_is_a_finding():
    model = quantized()
    model.graph.node.append(onnx.helper.make_node("Unheard", ["y"], ["z"], domain="nowhere"))
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))
    (found,) = speed_findings(model, ["onnxruntime"])
    assert found.kind == "refused" and "Unheard" in found.what


def test_an_onnx_file_with_its_weights_beside_it(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(quantized(clamp=True), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert kinds(diagnose(path, ["onnxruntime"])) == {"clamp"}
    (tmp_path / "weights").unlink()
    with pytest.raises(IntegrityError, match="another file"):
        diagnose(path, ["onnxruntime"])


def test_an_onnx_file(tmp_path):
    onnx.save(quantized(clamp=True), tmp_path / "model.onnx")
    assert kinds(diagnose(tmp_path / "model.onnx", ["onnxruntime"])) == {"clamp"}
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(IntegrityError, match="not an ONNX file"):
        diagnose(tmp_path / "broken.onnx", ["onnxruntime"])
    with pytest.raises(FileNotFoundError):
        diagnose(tmp_path / "absent.onnx", ["onnxruntime"])


def test_weights_that_saturate_without_vnni_are_named(monkeypatch):
    from featherweight.runtime import OnnxBackend

    model = quantized()
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    stored.CopyFrom(h.make_tensor("w", T.INT8, (16, 8, 3, 3), [100] * (16 * 8 * 9)))
    for here, kind in ((True, "saturates"), (False, "not portable")):
        monkeypatch.setattr(OnnxBackend, "saturates", lambda self, here=here: here)
        (found,) = [f for f in speed_findings(model, ["onnxruntime"]) if f.kind == kind]
        assert found.where == ["conv"] and "VNNI" in found.what
        assert "portable" in found.hint and "x64quantprecision" in found.hint


def test_layers_are_named_by_their_modules():
    network = Pooled().eval()
    model = build_onnx(export(network, torch.randn(2, 3, 8, 8)), arrays(network))
    (found,) = speed_findings(model, ["onnxruntime"])
    assert found.kind == "float" and found.where == ["conv", "fc"]


def test_a_module_that_is_used_twice_has_a_name_for_each_use():
    layer = nn.Linear(4, 4)
    network = nn.Sequential(layer, nn.ReLU(), layer).eval()
    model = build_onnx(export(network, torch.randn(2, 4)), arrays(network))
    assert [node.name for node in model.graph.node if node.op_type == "Gemm"] == ["0", "0/linear_1"]
    assert [node.name for node in named(model).graph.node] == ["0", "relu", "0/linear_1"]


def test_hints_about_graphs_of_others_name_no_steps_of_ours(tmp_path):
    for fault in ({"quantize_input": False}, {"weights": np.float32}):
        onnx.save(quantized(**fault), tmp_path / "model.onnx")
        hints = " ".join(finding.hint for finding in diagnose(tmp_path / "model.onnx", ["onnxruntime"]))
        assert hints and "step" not in hints and ".fw" not in hints and "portable" not in hints
