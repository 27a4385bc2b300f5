"""The step `widen`: the function stays, the width doubles, copies train apart."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import HardReshape
from structured_networks import Images, Joined, Plain, Residual, SmallViT

from featherweight.model import Model
from featherweight.techniques import Context, Prune, Widen
from featherweight.techniques.rearrange import doubled
from featherweight.techniques.saliencies import Magnitude


@pytest.mark.parametrize("make", [Joined, SmallViT])
def test_the_function_is_preserved_and_parameters_grow(make):
    task = Images(make, dtype=torch.float32)
    before = Model.of(task.model())
    after = Widen(where="weights").apply(before, task, Context())
    widths = {note.name: note.reason for note in after.notes if note.kind == "chose"}
    assert widths
    torch.testing.assert_close(
        after.module(task.example()), before.module(task.example()), rtol=1e-4, atol=1e-5
    )
    assert sum(p.numel() for p in after.module.parameters()) > sum(
        p.numel() for p in before.module.parameters()
    )
    again = Widen(where="weights").apply(after, task, Context(seed=1))
    torch.testing.assert_close(
        again.module(task.example()), before.module(task.example()), rtol=1e-4, atol=1e-5
    )


def test_copies_are_read_with_different_weights():
    task = Images(Plain, dtype=torch.float32)
    after = Widen(where="one.weight").apply(Model.of(task.model()), task, Context())
    assert torch.equal(after.tensors["one.weight"][:3], after.tensors["one.weight"][3:])
    assert not torch.equal(after.tensors["two.weight"][:, :3], after.tensors["two.weight"][:, 3:])


def test_a_widened_network_is_pruned_again():
    task = Images(Residual, dtype=torch.float32)
    wide = Widen(where="mid.weight").apply(Model.of(task.model()), task, Context())
    model = Prune(keep=0.5, of="channels", saliency=Magnitude()).apply(wide, task, Context())
    assert model.module.mid.out_channels + model.module.stem.out_channels == 3


def test_a_size_written_out_keeps_its_width():
    class Net(HardReshape):
        def forward(self, x):
            return super().forward(x.expand(-1, 3, -1, -1).repeat_interleave(2, 2).repeat_interleave(2, 3))

    task = Images(Net, dtype=torch.float32)
    model = Widen(where="weights").apply(Model.of(task.model()), task, Context())
    assert any("keeps its width" in note.reason for note in model.notes)
    assert model.module.conv.out_channels == 4


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=12))
def test_every_owned_index_is_there_twice(owners):
    import numpy as np

    order, second = doubled(np.array(owners), np.zeros(5, int))
    counts = np.bincount(order, minlength=len(owners))
    assert (counts == np.where(np.array(owners) < 0, 1, 2)).all()
    assert (np.sort(order[second]) == np.flatnonzero(np.array(owners) >= 0)).all()
