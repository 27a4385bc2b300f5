"""What results are kept under: the task as it is now, the code of plug-ins, and every version that computes."""

import pytest
import torch
from torch import nn

from featherweight import Classification, Int, Recipe, Store
from featherweight.errors import ConfigError
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
