"""The step `reorder`: the function stays, nothing but places changes, alike channels are neighbours."""

import numpy as np
import pytest
import torch
from structured_networks import Images, Joined, Plain, Residual, SmallViT

from featherweight.formats import Astc
from featherweight.model import Model
from featherweight.techniques import Context, Encode, Reorder
from featherweight.techniques.rearrange import chain


@pytest.mark.parametrize("make", [Plain, Residual, Joined, SmallViT])
def test_the_function_is_preserved_and_no_number_changes(make):
    task = Images(make, dtype=torch.float32)
    before = Model.of(task.model())
    after = Reorder().apply(before, task, Context())
    assert any(note.kind == "chose" for note in after.notes)
    assert any(not torch.equal(value, before.tensors[name]) for name, value in after.tensors.items())
    for name, value in after.tensors.items():
        torch.testing.assert_close(value.flatten().sort()[0], before.tensors[name].flatten().sort()[0])
    torch.testing.assert_close(
        after.module(task.example()), before.module(task.example()), rtol=1e-5, atol=1e-5
    )
    again = Reorder().apply(after, task, Context())
    assert [note.name for note in again.notes] != []


def test_an_encoding_of_other_places_is_dropped():
    task = Images(Plain, dtype=torch.float32)
    model = Encode(where="two.weight").apply(Model.of(task.model()), task, Context())
    model = Reorder(where="one.weight").apply(model, task, Context())
    assert "two.weight" not in model.weights
    assert any(note.kind == "thawed" and note.name == "two.weight" for note in model.notes)


def test_blocks_are_nearer_to_a_matrix_whose_alike_rows_are_neighbours():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(8, 60))
    rows = (kinds[rng.integers(0, 8, 96)] + 0.5 * rng.normal(size=(96, 60))).astype(np.float32)

    def missed(matrix):
        return np.square(Astc(footprint="6x6", per="tensor").encode(matrix).decode() - matrix).sum()

    order = chain(rows)
    assert sorted(order) == list(range(96))
    assert missed(rows[order]) < 0.8 * missed(rows)


def test_rows_of_zeros_come_last():
    assert chain(np.array([[0.0, 0], [1, 0], [0, 0], [1, 0.5]])).tolist()[:2] == [3, 1]
    assert chain(np.zeros((3, 2))).tolist() == [0, 1, 2]
