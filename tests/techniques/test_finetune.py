"""Training steps: options and where they come from, what trains, what stays, and how well it works."""

import math

import msgspec
import pytest
import torch
from tiny import Tiny

from featherweight.errors import ConfigError, TaskError, UnsupportedError
from featherweight.formats import Astc, Basis, Clustered, Float, Int, tag
from featherweight.formats.coders import Rans
from featherweight.model import Model, equal_bits
from featherweight.recipe import parse_recipe
from featherweight.task import Restricted
from featherweight.task.training import Training
from featherweight.techniques import Context, Encode, Finetune, Train
from featherweight.techniques.training import TrainingStep
from featherweight.training.loop import minimise
from featherweight.training.methods import METHODS, Centroids, Project, StraightThrough

TASK = Tiny(size=128)


def apply(step, model, task=TASK):
    return step.apply(model, Restricted(task, step.needs), Context(seed=1))


@pytest.fixture(scope="module")
def trained():
    return apply(Train(epochs=8), Model.of(TASK.model()))


def loss(model):
    with torch.no_grad():
        return sum(
            float(TASK.loss(model.module(batch[0]), batch))
            for batch in TASK.batches("validation", seed=0, epoch=0)
        )


def test_step_and_options_have_the_same_fields():
    assert set(TrainingStep.__struct_fields__) == {*Training.__struct_fields__, "loss"}


def test_options_are_the_steps_own_then_the_tasks_then_the_defaults():
    options = Train(lr=0.5, schedule=[0.5]).options(TASK)
    assert options == Training(epochs=2, lr=0.5, weight_decay=1e-4, schedule=[0.5])
    assert Finetune().options(TASK) == Training(epochs=1, lr=0.005, weight_decay=1e-4)
    assert Finetune(lr=0.1, epochs=4).options(TASK) == Training(epochs=4, lr=0.1, weight_decay=1e-4)
    assert Train().options(Tiny(training=None)) == Training()
    assert Train().options(Tiny(training=Training(epochs=7))) == Training(epochs=7)
    with pytest.raises(TaskError, match="training options of the task"):
        Train().options(Tiny(training={"rate": 3}))


@pytest.mark.parametrize("wrong", [
    {"epochs": 0}, {"lr": -1.0}, {"lr": math.inf}, {"format": Int(), "where": ""}, {"format": Int(), "where": []},
    {"schedule": [0.75, 0.5]}, {"optimizer": "nesterov", "momentum": 0.0},
    {"method": StraightThrough()}, {"where": "weights"}, {"coder": "smallest"},
    {"format": Int(), "method": Centroids()}, {"format": Int(), "coder": "least"},
])  # fmt: skip
def test_refuses_what_cannot_be_meant(wrong):
    with pytest.raises(ConfigError):
        Finetune(**wrong)
    builtins = msgspec.to_builtins({"step": "finetune", **wrong})
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(builtins, Finetune)


def test_training_thaws_and_leaves_what_needs_no_gradient():
    module = TASK.model()
    module[8].bias.requires_grad_(False)
    model = Encode(where="4.weight").apply(Model.of(module), TASK, Context())
    after = apply(Train(epochs=1), model)
    assert {(note.kind, note.name) for note in after.notes} == {("thawed", "4.weight"), ("skipped", "8.bias")}
    assert after.weights == {}
    assert equal_bits(after.tensors["8.bias"], module[8].bias)
    assert not after.tensors["8.bias"].requires_grad


def test_without_a_format_encoded_tensors_stay(trained):
    model = Encode(where=["4.weight", "1.running_mean"], format=Float()).apply(trained, TASK, Context())
    after = apply(Finetune(), model)
    assert after.weights == model.weights and after.notes == model.notes
    assert not equal_bits(after.tensors["8.weight"], model.tensors["8.weight"])


@pytest.mark.parametrize("format", [Int(bits=2, per="tensor"), Clustered(bits=1)], ids=tag)
@pytest.mark.parametrize("method", METHODS, ids=tag)
def test_finetuning_beats_rounding(trained, method, format):
    if method().misfit(format):
        return
    rounded = apply(Encode(format=format), trained)
    options = {"every": 4} if method is Project else {}
    tuned = apply(Finetune(format=format, method=method(**options), epochs=6, lr=0.01), trained)
    assert set(tuned.weights) == set(rounded.weights)
    assert loss(tuned) < loss(rounded)


def test_centroids_train_the_codes_that_are_there(trained):
    clustered = apply(Encode(format=Clustered(bits=2)), trained)
    after = apply(Finetune(format=Clustered(bits=2), method=Centroids(), coder=Rans()), clustered)
    for name, entry in after.weights.items():
        assert (entry.symbols == clustered.weights[name].symbols).all() and entry.coder == Rans()
    assert {(note.kind, note.name) for note in after.notes} == {
        ("thawed", name) for name in clustered.weights
    }


def test_scratch_resumes(tmp_path, trained, monkeypatch):
    step = Finetune(format=Int(bits=3), epochs=2)
    expected = apply(step, trained).hash
    monkeypatch.setattr(minimise, "__kwdefaults__", {**minimise.__kwdefaults__, "save_seconds": 0.0})
    for _ in range(2):  # the second time from the checkpoint before the last step
        assert step.apply(trained, TASK, Context(seed=1, scratch=tmp_path)).hash == expected
        assert list(tmp_path.iterdir())


def test_a_recipe_names_the_place_of_what_cannot_be_meant():
    text = '[[steps]]\nstep = "train"\nschedule = [0.75, 0.5]\n'
    with pytest.raises(ConfigError, match=r"steps\[0\]: train.schedule: not in ascending order"):
        parse_recipe(text)


def test_buffers_do_not_train_and_it_is_said(trained):
    with pytest.raises(ConfigError, match=r"finetune.where: selects buffers"):
        apply(Finetune(where="1.running_mean", format=Int()), trained)
    after = apply(Finetune(where=["4.weight", "1.running_mean"], format=Int()), trained)
    assert [(note.kind, note.name) for note in after.notes] == [("skipped", "1.running_mean")]
    assert set(after.weights) == {"4.weight"}


def test_nothing_to_train_is_said(trained):
    frozen = TASK.model().requires_grad_(False)
    for step, model in (
        (Train(), Model.of(frozen)),
        (Finetune(format=Int()), Model.of(frozen)),
        (Finetune(), apply(Encode(where="parameters", format=Float()), trained)),
    ):
        with pytest.raises(UnsupportedError, match="nothing is left to train"):
            apply(step, model)


@pytest.mark.parametrize("method", METHODS, ids=tag)
def test_a_diverged_run_names_the_tensor(trained, method):
    format = next(
        f for f in (Clustered(bits=1), Int(bits=2), Astc(), Basis(per="tensor")) if not method().misfit(f)
    )
    step = Finetune(format=format, where="0.weight", method=method(), lr=3e38)
    if getattr(step.method, "lr_scale", 1) > 1:
        with pytest.raises(ConfigError, match=r"lr: beyond float32: got 3e\+38 times"):
            apply(step, trained)
        step = msgspec.structs.replace(step, lr=3e36)
    with pytest.raises(TaskError, match=r"0.weight: training has diverged|the loss is not finite"):
        apply(step, trained)
