"""What results are kept under: the task as it is now, the code of plug-ins, and every version that computes."""

import numpy as np
import pytest
import torch
from torch import nn

from featherweight import Classification, Int, Recipe, Store
from featherweight.artifact import dumps
from featherweight.errors import ConfigError
from featherweight.events import Message
from featherweight.files import mapped
from featherweight.model import digest_of
from featherweight.packing import pack
from featherweight.recipe.runner import execute
from featherweight.techniques import Encode, Train
from featherweight.techniques.base import Step
from featherweight.workspace import Workspace, own_code, versions


def task():
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    y = (x[:, 0] > 0).long()
    return Classification(nn.Linear(6, 3), train=(x, y), test=(x, y)), x


def scale(factor):
    class Scale(Step, frozen=True, tag="scale"):
        def apply(self, model, task, context):
            return model.with_tensors({"weight": model.tensors["weight"].detach() * factor})

    return Scale()


def test_a_step_that_was_mended_is_run_again(tmp_path):
    made, _ = task()
    for factor, cached in ((2.0, False), (3.0, False), (2.0, True)):
        last = execute(Recipe([scale(factor)]), Workspace(made, threads=1, store=Store(tmp_path)))
        assert torch.equal(last[-1].model.tensors["weight"], factor * last[0].model.tensors["weight"])
        assert last[-1].cached is cached


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Linear(6, 50_000), nn.Linear(50_000, 3)

    def forward(self, x):
        return self.small(self.large(x).relu())


class Halve(Step, frozen=True, tag="halve"):
    """Halves the large weight."""

    def apply(self, model, task, context):
        return model.with_tensors({"large.weight": model.tensors["large.weight"].detach() / 2})


class Shift(Step, frozen=True, tag="shift"):
    """Adds to one bias."""

    by: float = 1.0

    def apply(self, model, task, context):
        return model.with_tensors({"small.bias": model.tensors["small.bias"].detach() + self.by})


def two():
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    return Classification(Two, train=(x, torch.arange(8) % 3), test=(x, torch.arange(8) % 3))


def test_of_a_step_is_written_what_it_changed_and_no_model_is_hashed_after_it(tmp_path, monkeypatch):
    recipe = Recipe([Encode(where="small.weight", format=Int(bits=4)), Shift(), Shift(by=2.0)])
    read = []
    monkeypatch.setattr("featherweight.model.digest_of", lambda t, own=digest_of: read.append(t) or own(t))
    first = execute(recipe, Workspace(two(), threads=1, store=Store(tmp_path)))
    assert len(read) == len(first[0].model.tensors)
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("??/*"))
    assert sizes[0] <= sizes[1] < 1000 < 75_000 < sizes[2] < 80_000  # of 4 bits, 150,000 weights
    again = execute(recipe, Workspace(two(), threads=1, store=Store(tmp_path)))
    assert [made.cached for made in again] == [False, True, True, True]
    for old, new in zip(first, again, strict=True):
        assert (old.model.hash, old.model.notes, old.key) == (new.model.hash, new.model.notes, new.key)
        assert dumps(pack(old.model)) == dumps(pack(new.model))


def test_what_was_made_sooner_than_it_is_written_is_made_again_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr("featherweight.recipe.runner.ALWAYS", 100)
    recipe, said = Recipe([Encode(where="small.weight"), Shift()]), []
    for _ in range(2):
        workspace = Workspace(two(), threads=1, store=Store(tmp_path), events=said.append)
        made = execute(recipe, workspace)
        assert [one.cached for one in made[:2]] == [False, False]
    assert made[2].cached
    texts = [event.text for event in said if isinstance(event, Message)]
    assert len(texts) == 2 and all("encode: 150,000 bytes" in text for text in texts)


def test_large_results_between_steps_are_maps_of_a_file(tmp_path, monkeypatch):
    recipe = Recipe([Shift(), Halve(), Encode(where="small.weight"), Shift(by=3.0)])
    calm = execute(recipe, Workspace(two(), threads=1, store=Store(tmp_path / "calm")))
    maps = []
    monkeypatch.setattr("featherweight.model.mapped", lambda *given: maps.append(mapped(*given)) or maps[-1])
    monkeypatch.setattr("featherweight.recipe.runner.ASIDE", 100_000)
    made = execute(recipe, Workspace(two(), threads=1, store=Store(tmp_path / "aside")))
    assert [one.model.hash for one in made] == [one.model.hash for one in calm]
    weights = [one.model.tensors["large.weight"].detach() for one in made]
    assert len(maps) == 1 and np.shares_memory(maps[0][0], weights[2].numpy())
    assert [weight.data_ptr() == weights[2].data_ptr() for weight in weights] == [
        False,
        False,
        True,
        True,
        True,
    ]
    before = weights[1].clone()
    weights[2] += 1  # it can be written to, and no other model sees it
    assert torch.equal(weights[1], before)


def test_a_task_that_was_changed_is_another_one(tmp_path):
    made, x = task()

    def cached():
        workspace = Workspace(made, threads=1, store=Store(tmp_path))
        return execute(Recipe([Train(epochs=1)]), workspace)[-1].cached

    assert [cached(), cached()] == [False, True]
    made.label_smoothing = 0.5
    assert [cached(), cached()] == [False, True]
    x += 1.0
    assert [cached(), cached()] == [False, True]


def test_the_code_of_this_package_stands_under_its_version():
    assert not own_code((Encode(format=Int(bits=4)), {"a": [1, "b"]}))
    assert own_code([scale(2.0)]) != own_code([scale(3.0)])


def test_versions_of_all_that_computes():
    assert {
        "featherweight",
        "torch",
        "numpy",
        "scipy",
        "numba",
        "onnxruntime",
        "instructions",
    } <= versions().keys()


def test_a_workspace_has_threads():
    with pytest.raises(ConfigError, match="threads: got 0, expected 1 or more"):
        Workspace(task()[0], threads=0)
