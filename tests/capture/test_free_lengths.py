"""Axes that stay free: sequences of any length, masks, and keys and values of the tokens before."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import featherweight
from featherweight import Agreement, Recipe, compress
from featherweight.capture.onnx import read_network
from featherweight.export import integers_of, linear_of, onnx_of, serialized
from featherweight.formats import Int
from featherweight.techniques import Encode, Gptq

WIDTH, WORDS = 16, 20


def masked_file(tmp_path):
    """A file as torch writes masks: truths as large as the input, and a constant one; each batch has a name."""
    generator = np.random.default_rng(0)

    def stored(name, array):
        return numpy_helper.from_array(np.asarray(array), name)

    weights = [
        stored("w", generator.normal(0, 0.3, (8, WIDTH)).astype(np.float32)),
        stored("v", generator.normal(0, 0.3, (WIDTH, 4)).astype(np.float32)),
        stored("true", np.array(True)), stored("all", np.array([True])), stored("none", np.float32(0)),
        stored("last", np.array([2], np.int64)),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["mask"], ["there"], to=TensorProto.BOOL),
        helper.make_node("And", ["true", "there"], ["seen"]),
        helper.make_node("Shape", ["mask"], ["sizes"]),
        helper.make_node("Expand", ["all", "sizes"], ["whole"]),
        helper.make_node("And", ["whole", "seen"], ["kept"]),
        helper.make_node("Unsqueeze", ["kept", "last"], ["kept3"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Where", ["kept3", "r", "none"], ["m"]),
        helper.make_node("MatMul", ["m", "v"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 8]),
        helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch_1", "length"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 4])]
    graph = helper.make_graph(nodes, "masked", inputs, outputs, weights)
    path = tmp_path / "masked.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def masked_inputs(rows, length, seed=0):
    generator = np.random.default_rng(seed)
    mask = np.ones((rows, length), np.int64)
    mask[::2, : length // 3] = 0  # filled up on the left
    return {"x": generator.normal(size=(rows, length, 8)).astype(np.float32), "mask": mask}


def apart(model, feeds, expected):
    """The greatest distance of an output, as a share of it."""
    session = onnxruntime.InferenceSession(serialized(model))
    got = session.run(None, feeds)
    return max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("to", ["int8", "dynamic", "nbits"])
def test_lengths_that_calibration_has_not_seen_run(tmp_path, to):
    path = masked_file(tmp_path)
    task = featherweight.from_onnx(path, masked_inputs(48, 7), outputs="values")
    artifact = compress(task, "w8a8" if to == "int8" else Recipe([Encode(portable=True)]), threads=1).artifact
    model = integers_of(artifact).onnx if to == "int8" else linear_of(artifact, to).onnx
    shapes = {v.name: [n.dim_param for n in v.type.tensor_type.shape.dim][:2] for v in model.graph.input}
    assert shapes["x"] == ["batch", "length"]
    assert all(shapes["mask"])
    for rows, length in ((1, 3), (5, 12), (2, 7)):
        feeds = masked_inputs(rows, length, seed=length)
        expected = onnxruntime.InferenceSession(path).run(None, feeds)
        assert apart(model, feeds, expected) < 0.05


def test_a_batch_of_another_name_is_of_the_batch(tmp_path):
    assert read_network(masked_file(tmp_path)).batch_axes() == {"x": (0,), "mask": (0,)}


class Step(nn.Module):
    """A step of a decoder: new tokens, a mask of all, and keys and values of those before; what is kept grows."""

    def __init__(self):
        super().__init__()
        self.words, self.norm = nn.Embedding(WORDS, WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens, mask, keys, values):
        x = self.norm(self.words(tokens))
        query, key, value = (
            layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        keys, values = torch.cat([keys, key], 2), torch.cat([values, value], 2)
        total, new = keys.shape[2], tokens.shape[1]
        causal = torch.arange(total) <= torch.arange(total - new, total)[:, None]
        allowed = causal[None, None] & (mask != 0)[:, None, None]
        scores = query @ keys.transpose(-1, -2) / 8**0.5 + torch.where(allowed, 0.0, float("-inf"))
        mixed = (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
        return {"scores": self.head(x + self.out(mixed)), "new_keys": keys, "new_values": values}


def step_inputs(rows, new, before, seed=0, filled=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, before + new, dtype=torch.int64)
    mask[::2, :filled] = 0
    caches = (torch.randn(rows, 2, before, WIDTH // 2, generator=generator) for _ in range(2))
    tokens = torch.randint(WORDS, (rows, new), generator=generator)
    return dict(zip(("tokens", "mask", "keys", "values"), (tokens, mask, *caches), strict=True))


FREE = {"tokens": (0, 1), "mask": (0, 1), "keys": (0, 2), "values": (0, 2)}
OTHERS = [(1, 1, 3, 0), (3, 1, 12, 4), (2, 4, 5, 2), (2, 3, 0, 0)]


def step_task():
    torch.manual_seed(0)
    network, data = Step().eval(), step_inputs(40, 1, 7)
    train, test = ({name: part[rows] for name, part in data.items()} for rows in (slice(24), slice(24, 40)))
    task = Agreement(network, train=train, test=test, outputs="values")
    task.dynamic_shapes = lambda: FREE
    return network, task


def check_steps(artifact, network, recipe):
    graphs = {"onnx": onnx_of(artifact)}
    if recipe == "w8a8":
        graphs["int8"] = integers_of(artifact).onnx
    else:
        graphs |= {to: linear_of(artifact, to).onnx for to in ("dynamic", "nbits")}
    for (rows, new, before, filled), (to, model) in ((o, g) for o in OTHERS for g in graphs.items()):
        inputs = step_inputs(rows, new, before, seed=before, filled=filled)
        with torch.no_grad():
            expected = [part.numpy() for part in network(**inputs).values()]
        feeds = {name: part.numpy() for name, part in inputs.items()}
        assert apart(model, feeds, expected) < 0.06, (to, rows, new, before)


@pytest.mark.parametrize("recipe", ["w8a8", "gptq"])
def test_a_step_with_a_cache_runs_with_caches_of_any_length(recipe, tmp_path):
    """From torch; and its file, read again: calibrated one new token at a time, beside seven before."""
    network, task = step_task()
    steps = (
        "w8a8" if recipe == "w8a8" else Recipe([Gptq(format=Int(scale_by="mse"), samples=16, portable=True)])
    )
    artifact = compress(task, steps, threads=1).artifact
    check_steps(artifact, network, recipe)
    path = tmp_path / "step.onnx"
    onnx.save(onnx_of(compress(task, Recipe([]), threads=1).artifact), path)
    arrays = {name: part.numpy() for name, part in step_inputs(40, 1, 7, seed=5).items()}
    again = featherweight.from_onnx(path, arrays, outputs="values")
    check_steps(compress(again, steps, threads=1).artifact, network, recipe)
