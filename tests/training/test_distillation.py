"""Distillation: Hinton's loss against its formula and its gradient, and a step that is taught by the float network."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Tiny
from torch.nn import functional as F

from featherweight.errors import ConfigError
from featherweight.model import Model
from featherweight.recipe import Recipe, Store, run
from featherweight.techniques import Finetune, Sparsify, Train
from featherweight.training.distillation import Distillation, soft_loss

SCORES = st.lists(st.floats(-8, 8), min_size=6, max_size=6).map(lambda v: torch.tensor(v).reshape(2, 3))


def oracle(student, teacher, temperature):
    """The definition, sample by sample."""
    total = 0.0
    for s, t in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        p = np.exp(t / temperature) / np.exp(t / temperature).sum()
        q = np.exp(s / temperature) / np.exp(s / temperature).sum()
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    return total / len(student) * temperature**2


@settings(deadline=None)
@given(SCORES, SCORES, st.floats(0.5, 20))
def test_the_definition(student, teacher, temperature):
    found = float(soft_loss(student, teacher, temperature))
    assert found == pytest.approx(oracle(student, teacher, temperature), abs=1e-3, rel=1e-3)


@settings(deadline=None)
@given(SCORES, SCORES, st.floats(1, 10))
def test_gradient(student, teacher, temperature):
    """T (softmax of the student - softmax of the teacher), over the samples: section 2 of the paper."""
    student = student.clone().requires_grad_()
    soft_loss(student, teacher, temperature).backward()
    expected = temperature * (F.softmax(student / temperature, 1) - F.softmax(teacher / temperature, 1)) / 2
    assert torch.allclose(student.grad, expected, atol=1e-4)


def test_high_temperature_matches_centred_scores():
    student, teacher = torch.randn(2, 5), torch.randn(2, 5)
    student.requires_grad_()
    soft_loss(student, teacher, 1e3).backward()
    centred = [scores - scores.mean(1, keepdim=True) for scores in (student, teacher)]
    assert torch.allclose(student.grad, (centred[0] - centred[1]) / 5 / 2, atol=1e-3)


@settings(deadline=None)
@given(SCORES, st.floats(-50, 50))
def test_nothing_to_learn(scores, constant):
    scores = scores.clone().requires_grad_()
    loss = soft_loss(scores, scores.detach() + constant, 3.0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4) and scores.grad.abs().max() < 1e-4


def test_weight_of_the_teacher():
    task = Tiny()
    teacher = Model.of(task.model())
    batch = next(iter(task.batches("train", seed=0, epoch=0)))
    output = torch.randn(len(batch[1]), 4)
    soft = soft_loss(output, teacher.module(batch[0]).detach(), 2.0)
    mixed = Distillation(weight=0.25, temperature=2.0).loss(task, teacher)(output, batch)
    assert torch.allclose(mixed, 0.75 * task.loss(output, batch) + 0.25 * soft)
    assert torch.allclose(Distillation(weight=1.0, temperature=2.0).loss(task, teacher)(output, batch), soft)


def test_the_teacher_is_the_trained_network(tmp_path):
    task = Tiny()
    prune = Sparsify(where="*.weight", sparsity=0.9)
    steps = [Train(epochs=4), prune, Finetune(epochs=3, lr=0.02, distill=Distillation(weight=1.0))]
    made = run(Recipe(steps), task, threads=1, store=Store(tmp_path))
    teacher, pruned, student = (entry.model.module.eval() for entry in made[1:])
    images, _ = task.data("validation", 256)
    with torch.no_grad():
        before, after = (soft_loss(m(images), teacher(images), 4.0) for m in (pruned, student))
    assert float(after) < float(before) / 2


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"weight": 1.5}, {"temperature": 0.0}])
def test_what_means_nothing_is_refused(options):
    with pytest.raises(ConfigError, match="distill"):
        Finetune(distill=Distillation(**options))
