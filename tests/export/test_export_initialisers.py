"""Initialisers are found by content: any order of axes, any shape, ties, and nothing that looks alike."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from featherweight.capture.program import capture
from featherweight.engines import onnxruntime_session
from featherweight.errors import UnsupportedError
from featherweight.export.check import arrays, check
from featherweight.export.float_graph import LARGE, fed_onnx, serialized
from featherweight.export.onnx import export, marked, match
from featherweight.runtime import Session


def graph(**arrays):
    values = []
    for name, array in arrays.items():
        tensor = ir.tensor(array)
        values.append(
            ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        )
    return ir.Graph([], [], nodes=[], initializers=values)


shapes = st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple)


@given(shapes, st.data())
def test_any_order_of_axes_and_any_shape_is_found(shape, data):
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    flat = data.draw(st.booleans())
    _, marks = marked({"w": torch.zeros(shape), "v": torch.zeros(shape)}, {"w": "w", "v": "v"})
    moved = marks["w"].transpose(order)
    array = moved.reshape(-1) if flat else moved
    (entry,) = match(graph(x=np.ascontiguousarray(array).reshape(array.shape)), marks)
    assert entry.tensor == "w"
    rebuilt = marks["w"].transpose(entry.permutation) if entry.permutation else marks["w"]
    rebuilt = rebuilt.reshape(entry.shape) if entry.shape else rebuilt
    assert rebuilt.size == array.size
    np.testing.assert_array_equal(rebuilt.reshape(-1), array.reshape(-1))


def test_constants_and_derived_values_are_not_tensors():
    _, marks = marked({"w": torch.zeros(3, 4)}, {"w": "w"})
    twice, flipped = marks["w"] * 2, marks["w"][::-1].copy()
    assert match(graph(a=twice, b=flipped, c=np.zeros((3, 4), np.float32)), marks) == ()


@pytest.mark.parametrize(
    "shape", [(520, 520), (65, 65, 65), (130, 64, 6, 6), (64, 64, 9, 9), (3, 1, 300, 300)]
)
def test_a_large_tensor_is_marked_by_few_numbers_and_found_as_surely(shape):
    size, names = len(shape), {"w": "w", "v": "v"}
    state, marks = marked({name: torch.zeros(shape) for name in names}, names)
    assert marks["w"].nbytes >= LARGE
    assert state["w"].untyped_storage().nbytes() < marks["w"].nbytes / 4
    orders = {order: np.ascontiguousarray(marks["v"].transpose(order)) for order in permutations(range(size))}
    for order, array in orders.items():
        (entry,) = match(graph(x=array), marks)
        found = entry.permutation or tuple(range(size))
        assert entry.tensor == "v"
        assert [a for a in found if shape[a] > 1] == [a for a in order if shape[a] > 1]
    whole = np.ascontiguousarray(marks["w"])
    other = whole.copy()
    other.flat[-1] += 1
    moved = [np.flip(whole, axis) for axis in range(size) if shape[axis] > 1]
    moved += [np.roll(whole, 1, axis) for axis in range(size) if shape[axis] > 1]
    derived = {str(n): np.ascontiguousarray(array) for n, array in enumerate([other, whole * 2, *moved])}
    assert match(graph(**derived), marks) == ()
    (flat,) = match(graph(x=whole.reshape(-1)), marks)
    assert (flat.tensor, flat.permutation, flat.shape) == ("w", (), whole.reshape(-1).shape)


def test_a_large_tensor_makes_the_graph_that_a_small_one_makes(monkeypatch):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 256, 3), nn.ReLU(), nn.Conv2d(256, 256, 3), nn.Flatten(), nn.Linear(256, 1100)
    network, example = nn.Sequential(*layers), torch.randn(2, 3, 5, 5)
    stored = export(network, example)
    monkeypatch.setattr("featherweight.export.onnx.LARGE", 1 << 40)
    assert export(network, example) == stored
    x = torch.randn(3, 3, 5, 5)
    (got,) = Session.of(stored, arrays(network)).run(x.numpy())[None]
    np.testing.assert_allclose(got, network(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_large_tensors_are_fed_and_not_copied():
    network = nn.Sequential(nn.Linear(600, 600), nn.Linear(600, 4))
    tensors = arrays(network)
    model, fed = fed_onnx(export(network, torch.randn(2, 600)), tensors)
    assert list(fed) == ["0.weight"]
    assert np.shares_memory(fed["0.weight"], tensors["0.weight"])
    assert {tensor.name for tensor in model.graph.initializer} == {"0.bias", "1.weight", "1.bias"}
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).normal(size=(3, 600)).astype(np.float32)
    (got,) = onnxruntime_session(serialized(model), 1).run(None, {model.graph.input[0].name: x, **fed})
    np.testing.assert_allclose(got, network(torch.from_numpy(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_wrong_graph_of_large_tensors_is_refused():
    network = nn.Sequential(nn.Linear(600, 600), nn.Tanh(), nn.Linear(600, 4))
    program = capture(network, torch.randn(2, 600))
    stored = export(network, torch.randn(2, 600), captured=program)
    wrong = onnx.ModelProto.FromString(stored.onnx)
    (tanh,) = (node for node in wrong.graph.node if node.op_type == "Tanh")
    tanh.op_type = "Sigmoid"
    with pytest.raises(UnsupportedError, match=r"1 .tanh.*not the network"):
        check(replace(stored, onnx=wrong.SerializeToString()), network, program)


def test_ties_stay_ties_and_types_stay():
    shared = torch.zeros(2, 3, dtype=torch.float16)
    state = {
        "a": shared,
        "b": shared,
        "n": torch.zeros((), dtype=torch.int64),
        "m": torch.zeros(9, dtype=torch.bool),
    }
    replaced, marks = marked(state, {"a": "a", "b": "a", "n": "n", "m": "m"})
    assert replaced["a"] is replaced["b"]
    assert list(marks) == ["a", "n", "m"]
    assert {name: tensor.dtype for name, tensor in replaced.items()} == {n: t.dtype for n, t in state.items()}
