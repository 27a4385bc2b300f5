"""Distillation: Hinton's loss against its formula and its gradient, and a step that is taught by the float network."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import Tiny
from torch.nn import functional as F

from featherweight import Agreement, Classification, Regression
from featherweight.errors import ConfigError, TaskError
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.recipe import Recipe, Store, parse_recipe, run
from featherweight.techniques import Context, Finetune, Gptq, Sparsify, Train
from featherweight.training.losses import AfterStep, Distillation, InFile, TaskLoss, soft_loss

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
    mixed = Distillation(weight=0.25, temperature=2.0).of(teacher, task, teacher, []).value(output, batch, {})
    assert torch.allclose(mixed, 0.75 * task.loss(output, batch) + 0.25 * soft)
    assert torch.allclose(
        Distillation(temperature=2.0).of(teacher, task, teacher, []).value(output, batch, {}), soft
    )


def test_the_teacher_is_the_trained_network(tmp_path):
    task = Tiny()
    prune = Sparsify(where="*.weight", sparsity=0.9)
    steps = [Train(epochs=4), prune, Finetune(epochs=3, lr=0.02, loss=Distillation())]
    made = run(Recipe(steps), task, threads=1, store=Store(tmp_path))
    teacher, pruned, student = (entry.model.module.eval() for entry in made[1:])
    images, _ = task.data("validation", 256)
    with torch.no_grad():
        before, after = (soft_loss(m(images), teacher(images), 4.0) for m in (pruned, student))
    assert float(after) < float(before) / 2


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"weight": 1.5}, {"temperature": 0.0}])
def test_what_means_nothing_is_refused(options):
    with pytest.raises(ConfigError, match="distillation"):
        Finetune(loss=Distillation(**options))


def test_what_a_step_needs_follows_from_its_loss():
    assert Train().needs == Finetune(loss=TaskLoss()).needs == "labelled"
    assert Train(loss=Distillation()).needs == Finetune(loss=Distillation()).needs == "unlabelled"
    assert Finetune(loss=Distillation(weight=0.9)).needs == "labelled"


def test_recipes_of_before_mean_the_same():
    old = parse_recipe('[[steps]]\nstep = "finetune"\ndistill = {temperature = 2}')
    assert old.steps == [Finetune(loss=Distillation(weight=0.7, temperature=2.0))]
    assert parse_recipe(old.toml()) == old


def regression():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return Regression(torch.nn.Linear(3, 1), train=(x, 5 * x[:, :1]), test=(x, 5 * x[:, :1]), batch_size=20)


def test_outputs_of_one_column_move_towards_the_teacher(tmp_path):
    task = regression()
    steps = [Sparsify(where="weight", sparsity=0.6), Finetune(epochs=20, lr=0.02, loss=Distillation())]
    made = run(Recipe(steps), task, threads=1, store=Store(tmp_path))
    teacher, pruned, student = (entry.model.tensors["weight"].detach() for entry in made)
    assert float((student - teacher).norm()) < 0.1 * float((pruned - teacher).norm())


def test_scores_of_one_class_are_refused():
    x, y = torch.randn(20, 3), torch.zeros(20, dtype=torch.long)
    task = Classification(torch.nn.Linear(3, 1), train=(x, y), test=(x, y))
    with pytest.raises(TaskError, match="one class cannot be distilled"):
        Finetune(epochs=1, loss=Distillation()).apply(Model.of(task.model()), task, Context())


def test_teachers_are_steps_and_files_too(tmp_path):
    task = regression()
    trained = Train(epochs=5, lr=0.05)
    (_, first), file = (
        run(Recipe([trained]), task, threads=1, store=Store(tmp_path)),
        tmp_path / "t.safetensors",
    )
    save_file({name: tensor.detach() for name, tensor in first.model.tensors.items()}, file)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    for teacher in (AfterStep(number=0), InFile(file=str(file), sha256=sha)):
        taught = Finetune(epochs=30, lr=0.02, loss=Distillation(teacher=teacher))
        steps = [trained, Sparsify(where="weight", sparsity=0.6), taught]
        made = run(Recipe(steps), task, threads=1, store=Store(tmp_path))
        assert torch.allclose(made[-1].model.tensors["weight"], made[1].model.tensors["weight"], atol=0.05)
        assert parse_recipe(Recipe(steps).toml()).steps == steps
    with pytest.raises(ConfigError, match=r"teacher\.number"):
        late = Finetune(loss=Distillation(teacher=AfterStep(number=0)))
        run(Recipe([late]), task, threads=1, store=Store(tmp_path))


@pytest.mark.parametrize("outputs", ["classes", "values"])
def test_inputs_alone_suffice(tmp_path, outputs):
    """Every label of this task is read by nobody: it has none."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
    train, test = torch.randn(300, 6, generator=generator), torch.randn(100, 6, generator=generator)
    task = Agreement(network, train=train, test=test, outputs=outputs)
    steps = [
        Sparsify(where="weights", sparsity=0.6),
        Finetune(epochs=10, lr=0.05, keep_zeros=True, loss=Distillation()),
        Gptq(where="weights", format=Int(bits=8, per="channel")),
    ]
    made = run(Recipe(steps), task, threads=1, store=Store(tmp_path))
    found = [task.metrics(entry.model.module, "test")["agreement"] for entry in made]
    assert found[0] == 1 and found[1] < found[2] and abs(found[3] - found[2]) < 0.05
