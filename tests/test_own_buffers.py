"""A network may write to its buffers whenever it runs: no model changes by being run, and no file depends on it."""

import pytest
import torch
from torch import nn

from featherweight import Classification, compress
from featherweight.evaluation.metrics import model_predictor
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.recipe import Recipe, Store
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Finetune, ReestimateBatchnorm, Sparsify
from featherweight.techniques.saliencies import Obd, WoodFisher
from featherweight.training.losses import Distillation


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return self.norm(self.layer(x)) + 0 * self.seen


def counting():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 6, generator=generator), torch.randint(0, 3, (200,), generator=generator)
    torch.manual_seed(0)
    return Classification(Counting(), train=(x, y), test=(x, y), batch_size=50)


def test_files_do_not_depend_on_what_was_run_before(tmp_path):
    task, store = counting(), Store(tmp_path)
    recipe = Recipe([Encode(format=Int(bits=8))])
    first, second = (compress(task, recipe, threads=1, store=store) for _ in range(2))
    assert float(first.artifact.weights()["seen"]) == 0
    assert first.content == second.content


STEPS = [
    Sparsify(where="layer.weight", sparsity=0.5, saliency=Obd(samples=60)),
    Sparsify(where="layer.weight", sparsity=0.5, saliency=Obd(samples=60, diagonal="gauss_newton")),
    Sparsify(where="layer.weight", sparsity=0.5, saliency=WoodFisher(samples=60)),
    Finetune(epochs=1, lr=0.1, loss=Distillation()),
    ReestimateBatchnorm(),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(getattr(step, "saliency", step)).__name__)
def test_steps_leave_the_buffers_of_their_input(step):
    task = counting()
    model = Model.of(task.model())
    step.apply(model, Restricted(task, step.needs), Context(baseline=model))
    assert float(model.tensors["seen"]) == 0


def test_predicting_leaves_the_buffers():
    task = counting()
    model = Model.of(task.model())
    task.metrics(model_predictor(model, task), "test")
    assert float(model.tensors["seen"]) == 0
