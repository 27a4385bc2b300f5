"""A float ONNX model with weights as they are rounded: the float model's numbers, bit for bit, in fewer bytes."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from featherweight.activations import Affine
from featherweight.artifact import dumps, loads
from featherweight.engines import openvino_core
from featherweight.export import integers_of, onnx_of, qdq_of, serialized, weights_of
from featherweight.export.onnx import export
from featherweight.formats import Clustered, Float, Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.runtime.backend import onnx_backend

EXAMPLE = torch.randn(2, 8, 12, 12, generator=torch.Generator().manual_seed(0))
FORMATS = [
    Int(bits=8, per="channel"), Int(bits=8, per="tensor"), Int(bits=4, per=8), Int(bits=3, per="channel"),
    Int(bits=8, per="channel", scheme="affine"), Int(bits=4, per=8, scheme="affine"), Clustered(bits=4),
    Int(bits=4, per=8, scheme="affine", scale_type="float16"), Float(kind="float16"),
]  # fmt: skip


class Layers(nn.Module):
    """Convolutions, one of them transposed and one grouped, and linear layers over two and three axes."""

    def __init__(self):
        super().__init__()
        self.first, self.grouped = nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3, groups=2)
        self.back = nn.ConvTranspose2d(32, 16, 3)
        self.each, self.head = nn.Linear(16, 64), nn.Linear(64, 24)

    def forward(self, x):
        x = torch.relu(self.back(torch.relu(self.grouped(torch.relu(self.first(x))))))
        x = self.each(x.flatten(2).transpose(1, 2))
        return self.head(x.mean(1))


def made(kind):
    torch.manual_seed(0)
    start = Model.of(Layers())
    names = [name for name, tensor in start.tensors.items() if tensor.dim() > 1]
    encoded = {n: kind.encode(start.tensors[n].detach().numpy(), view=start.views[n]) for n in names}
    model = start.with_encoded(encoded)
    return loads(dumps(pack(model, export(model.module, EXAMPLE))))


@pytest.mark.parametrize("kind", FORMATS, ids=str)
def test_the_numbers_of_the_float_model(kind):
    artifact = made(kind)
    whole, (stored, floats) = onnx_of(artifact), weights_of(artifact)
    onnx.checker.check_model(stored)
    assert not [reason for name, reason in floats.items() if name.endswith("weight")]
    assert len(serialized(stored)) < 0.6 * len(serialized(whole))
    feeds = {whole.graph.input[0].name: EXAMPLE.numpy()}
    ours, theirs = (onnx_backend("onnxruntime").compute(m, threads=1)(feeds)[0] for m in (stored, whole))
    assert np.array_equal(ours, theirs)
    plain = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    core = openvino_core()
    ours, theirs = (
        core.compile_model(core.read_model(serialized(m)), "CPU", plain)(feeds)[0] for m in (stored, whole)
    )
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_runtime_widens_them_once(tmp_path):
    import onnxruntime

    stored, _ = weights_of(made(Int(bits=8, per="channel")))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 4, str(tmp_path / "m.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(serialized(stored), options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert not kinds & {"Cast", "DequantizeLinear"}


def test_what_has_no_small_elements_is_named():
    torch.manual_seed(0)
    start = Model.of(Layers())
    name = "each.weight"
    model = start.with_encoded(
        {name: Int(bits=12, per="channel").encode(start.tensors[name].detach().numpy())}
    )
    stored, floats = weights_of(loads(dumps(pack(model, export(model.module, EXAMPLE)))))
    assert floats[name] == "Int has no elements of 8 bits"
    assert floats["first.weight"] == "it is not encoded"
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored.graph.initializer}
    assert all(array.dtype != np.int8 for array in found.values())


def test_layers_in_float_between_integers_keep_their_weights_small():
    torch.manual_seed(0)
    start = Model.of(Layers())
    name = "first.weight"
    model = start.with_encoded(
        {name: Int(bits=8, per="channel").encode(start.tensors[name].detach().numpy())}
    )
    model = model.with_activations({"relu": Affine.of(0, 4)})
    artifact = loads(dumps(pack(model, export(model.module, EXAMPLE))))
    whole, small = qdq_of(artifact).onnx, integers_of(artifact).onnx
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    assert stored[f"{name}/stored"].dtype == np.int8
    assert name not in stored
    feeds = {whole.graph.input[0].name: EXAMPLE.numpy()}
    ours, theirs = (onnx_backend("onnxruntime").compute(m, threads=1)(feeds)[0] for m in (small, whole))
    assert np.array_equal(ours, theirs)
