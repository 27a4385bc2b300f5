"""Initialisers are found by content: any order of axes, any shape, ties, and nothing that looks alike."""

import numpy as np
import onnx_ir as ir
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.export.onnx import marked, match


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
