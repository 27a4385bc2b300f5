"""Bias correction: the mean error goes, where unseen inputs agree that it is there."""

import numpy as np
import pytest
import torch
from tiny import Tiny

from featherweight.errors import UnsupportedError
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.recipe import Recipe, Store, run
from featherweight.task import Restricted
from featherweight.techniques import Context, CorrectBias, Encode, Fold

TASK = Tiny(size=48)


def coded(*steps):
    """The folded network, and what is encoded of it."""
    floats = Fold().apply(Model.of(TASK.model()), TASK, Context())
    model = floats
    for step in steps or (Encode(format=Int(bits=3)),):
        model = step.apply(model, TASK, Context())
    return floats, model


def corrected(floats, model, **options):
    step = CorrectBias(**options)
    return step.apply(model, Restricted(TASK, step.needs), Context(uncoded=floats))


def images(split="calibration"):
    return torch.cat([images for images, _ in TASK.batches(split, seed=0, epoch=0)])


def test_one_layer_by_hand():
    floats, model = coded(Encode(where="8.weight", format=Int(bits=2)))
    after = corrected(floats, model, samples=40)
    with torch.no_grad():
        errors = (model.module(images()[:40]) - floats.module(images()[:40])).double().numpy()
    seen, unseen = errors[::2].mean(0), errors[1::2].mean(0)
    moved = (model.tensors["8.bias"] - after.tensors["8.bias"]).detach().numpy()
    for channel in range(4):
        before, if_moved = (
            np.square(errors[1::2, channel]).mean(),
            np.square(errors[1::2, channel] - seen[channel]).mean(),
        )
        assert moved[channel] == pytest.approx(seen[channel] if if_moved < before else 0.0, abs=1e-6)
    assert abs((2 * seen * unseen - seen**2)[moved != 0].min()) > 0
    notes = {note.name: note.reason for note in after.notes if note.kind == "chose"}
    assert notes == {"8.bias": f"{np.count_nonzero(moved)} of 4 channels corrected"}


def test_less_error_on_other_inputs_and_weights_stay():
    floats, model = coded()
    after = corrected(floats, model)
    with torch.no_grad():
        expected = floats.module(images("test"))
        before, now = ((m.module(images("test")) - expected).square().mean() for m in (model, after))
    assert now < 0.8 * before
    assert dict(after.weights) == dict(model.weights)


def test_says_what_stays():
    floats, model = coded(Encode(where=["0.weight", "8.*"]))
    notes = {note.name: note.reason for note in corrected(floats, model).notes if note.kind == "skipped"}
    assert notes == {
        "4.weight": "bias not corrected: the weight is not encoded",
        "8.weight": "bias not corrected: it is encoded",
    }
    step, task = CorrectBias(where="0.weight"), Restricted(TASK, "unlabelled")
    plain = Model.of(TASK.model())
    encoded = Encode().apply(plain, TASK, Context())
    assert "the layer has none" in step.apply(encoded, task, Context(uncoded=plain)).notes[0].reason


def test_a_single_input_corrects_nothing():
    floats, model = coded()

    class One(Tiny):
        def batches(self, split, *, seed, epoch):
            return [tuple(part[:1] for part in self.data(split, 1))]

    after = CorrectBias().apply(model, One(), Context(uncoded=floats))
    assert after.hash == model.hash


def test_needs_the_network_from_before():
    _, model = coded()
    for context in (Context(), Context(uncoded=Model.of(TASK.model()))):
        with pytest.raises(UnsupportedError, match="before the first step that encodes"):
            CorrectBias().apply(model, TASK, context)


def test_a_recipe_hands_it_over(tmp_path):
    steps = [Fold(), Encode(format=Int(bits=3)), CorrectBias()]
    made = run(Recipe(steps), TASK, threads=1, store=Store(tmp_path))
    floats, model = coded()
    assert made[-1].model.hash == corrected(floats, model).hash
