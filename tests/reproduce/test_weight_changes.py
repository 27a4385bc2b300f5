"""What the reproduction `weight-changes` measures: recording changes nothing, counts are right, the page is whole."""

import json
import math
from collections import Counter

import numpy as np
import torch
from tiny import Tiny

from featherweight.formats import Int
from featherweight.model import Model
from featherweight.techniques import Context, Finetune, Train
from featherweight.training.methods import StraightThrough
from reproduce import reproduce, weight_changes

TASK = Tiny(size=64)


def recorded(step, method, format):
    return weight_changes._recorded(Model.of(TASK.model()), TASK, step, method, format, 0, lambda event: None)


def test_recording_leaves_training_as_it_is():
    step = Train(epochs=2)
    weights, model = recorded(step, weight_changes.NEVER, Int(bits=4))
    plain = step.apply(Model.of(TASK.model()), TASK, Context())
    assert len(weights) == 3
    for name, tensor in plain.tensors.items():
        assert torch.equal(model.tensors[name], tensor), name


def test_records_the_weight_behind_the_rounding():
    step = Finetune(epochs=2, format=Int(bits=4))
    weights, _ = recorded(step, StraightThrough(), step.format)
    ends = step.apply(Model.of(TASK.model()), TASK, Context())
    for name, entry in ends.weights.items():
        again = Int(bits=4).encode(weights[-1][name].numpy(), view=entry.view, parts=entry.parts)
        np.testing.assert_array_equal(again.symbols, entry.symbols)


def test_counts_by_hand():
    format = Int(bits=4, per="tensor")
    parts = {"scale": np.array([1], np.float32)}
    steps = [[[0, 1, 2, -8]], [[0, 1, 3, 7]], [[1, 1, 2, 7]]]
    start, old, new = ({"w": format.encode(np.array(s, np.float32), parts=parts)} for s in steps)
    change = weight_changes._change(0.5, start, old, new)
    differences = Counter((b - a) % 16 for a, b in zip(steps[1][0], steps[2][0], strict=True))
    assert differences == {1: 1, 0: 2, 15: 1}
    assert change.entropy == -sum(n / 4 * math.log2(n / 4) for n in differences.values())
    assert (change.drift, change.since_last, change.since_start) == (0.5, 0.5, 0.5)
    assert change.whole[0] == change.update[0] == 2  # four symbols of four bits


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_changes, "resolve", lambda name: TASK)
    reproduce("weight-changes", tmp_path, quick=True, threads=1)
    page = (tmp_path / "README.md").read_text()
    assert page.count("## ") == 6 and "## Measured" not in page
    assert (tmp_path / "changes.svg").read_text().startswith("<svg")
    tables = json.loads((tmp_path / "results.json").read_text())["sheets"]
    assert [len(table["rows"]) for table in tables] == [2, 2, 2, 2]
