"""Distillation by features: against the formulas, through training, and what trains beside is resumed and dropped."""

from functools import partial

import attention_networks
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import killed_at
from tiny import Tiny, TinyOf
from torch import nn

from featherweight.artifact import dumps, loads
from featherweight.capture import trace
from featherweight.errors import ConfigError
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.recipe import Recipe, Store, parse_recipe, run
from featherweight.task import Restricted
from featherweight.task.protocol import Unlabelled
from featherweight.task.training import Training, learning_rate
from featherweight.techniques import Calibrate, Context, Finetune, Prune
from featherweight.techniques.saliencies import Magnitude
from featherweight.training.loop import minimise, of_network
from featherweight.training.losses import Attention, Distillation, Features, Guidance, Hints, TaskLoss, total
from featherweight.training.losses.features import Regressor, channels, maps_apart
from featherweight.training.watched import Companion, Watched


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.norm1 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.conv2, self.norm2 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(x + self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))))


class Blocks(nn.Module):
    """A stem, two blocks that write in place, a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(1, 4, 3, stride=2, padding=1), Block(4), Block(4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.second(self.first(torch.relu(self.stem(x)))).mean((2, 3)))


TASK = TinyOf(size=96, network=Blocks)
OPTIONS = {"epochs": 2, "lr": 0.05}
EDGES = {"relu", "relu_2", "relu_4"}
NUMBERS = st.lists(st.floats(-3, 3), min_size=24, max_size=24).map(
    lambda v: torch.tensor(v).double().reshape(2, 3, 4)
)


@pytest.fixture(scope="module")
def teacher():
    return Finetune(epochs=4, lr=0.1).apply(Model.of(TASK.model()), TASK, Context())


@pytest.fixture(scope="module")
def student(teacher):
    """The teacher, with weights that are wrong."""
    generator = torch.Generator().manual_seed(0)
    wrong = {
        n: t + 0.1 * torch.randn(t.shape, generator=generator)
        for n, t in teacher.tensors.items()
        if t.dim() > 1
    }
    return teacher.with_tensors({name: tensor.detach() for name, tensor in wrong.items()})


def goal_of(loss, model, teacher):
    return loss.of(model, TASK, teacher, [])


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_maps_are_their_definition(ours, theirs):
    def map_of(x):
        found = np.array([sum(x[c, place] ** 2 for c in range(len(x))) for place in range(x.shape[1])])
        return found / max(np.linalg.norm(found), 1e-12)

    expected = np.mean(
        [np.sum((map_of(a) - map_of(b)) ** 2) for a, b in zip(ours.numpy(), theirs.numpy(), strict=True)]
    )
    assert float(maps_apart(ours, theirs)) == pytest.approx(expected, abs=1e-9)
    beta = 1000 * float(Attention().apart(ours, theirs, None))
    assert beta == pytest.approx(1000 / 2 * expected / 4, abs=1e-6)  # the mean over four places too


@given(NUMBERS, NUMBERS)
@settings(deadline=None)
def test_a_hint_and_its_gradients_are_the_formula(ours, theirs):
    """With residuals e = r(v) - u, of N numbers: W'e/N by the layer, e v'/N by W, the sum of e/N by the bias."""
    regressor = Regressor(3, 3, seed=0)
    weight, bias = (part.double() for part in (regressor.weight.detach(), regressor.bias.detach()))
    regressor.weight.data, regressor.bias.data = weight.clone(), bias.clone()
    ours.requires_grad_()
    loss = Hints().apart(ours, theirs, regressor)
    loss.backward()
    residual = (weight @ ours.detach() + bias - theirs) / theirs.numel()
    assert float(loss.detach()) == pytest.approx(
        float(residual.square().sum() * theirs.numel() / 2), rel=1e-9
    )
    torch.testing.assert_close(ours.grad, weight.T @ residual)
    torch.testing.assert_close(regressor.weight.grad, torch.einsum("nop,nip->oi", residual, ours.detach()))
    torch.testing.assert_close(regressor.bias.grad, residual.sum((0, 2))[:, None])


@pytest.mark.parametrize("loss", [Attention(), Features()])
def test_nothing_to_learn(loss):
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    same = x.clone().requires_grad_()
    found = loss.apart(same, x, None)
    found.backward()
    assert float(found.detach()) == 0 and float(same.grad.abs().max()) < 1e-12


def test_a_regressor_can_reach_what_is_linear_in_a_layer():
    torch.manual_seed(0)
    ours, mix = torch.randn(8, 3, 16), torch.randn(5, 3)
    regressor = Regressor(3, 5, seed=1)
    optimizer = torch.optim.LBFGS(regressor.parameters(), max_iter=60)

    def closure():
        optimizer.zero_grad()
        loss = Hints().apart(ours, mix @ ours + 2, regressor)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(closure().detach()) < 1e-6


def test_channels_stand_where_layers_leave_them():
    network = TASK.model()
    graph = trace(network, TASK.example())
    assert {channels(graph, node.name) for node in graph.nodes} == {1}
    gpt = trace(attention_networks.Gpt().eval(), attention_networks.ids())
    tokens = [node for node in gpt.nodes if node.module.startswith("blocks.") and len(node.shape) == 3]
    assert tokens and {channels(gpt, node.name) for node in tokens} == {-1}
    sound = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 3))
    assert channels(trace(sound.eval(), torch.randn(2, 2, 9)), "relu") == 1


def test_activations_are_those_that_the_network_computes_in_training(teacher):
    """Blocks end in a sum to which the activation function writes: what is seen is what the next block reads."""
    images, kept = TASK.data("train", 8)[0], {}
    network = TASK.model()
    network.load_state_dict(teacher.module.state_dict())
    network.train()
    network.first.register_forward_hook(
        lambda module, inputs, output: kept.update(first=output.detach().clone())
    )
    expected = network(images)
    program = teacher.program(TASK.example()).training(TASK.model().train())
    goal = goal_of(Attention(), teacher, teacher)
    output, seen = Watched(program, goal.edges)(
        images, {n: t.detach().clone() for n, t in teacher.tensors.items()}
    )
    assert goal.edges == EDGES
    torch.testing.assert_close(output, expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen["relu_2"], kept["first"], atol=1e-5, rtol=1e-5)


def apart(model, teacher, measure):
    """How far features of fresh images are apart, as a step finds it that sees no labels."""
    task, images = Restricted(TASK, "unlabelled"), TASK.data("validation", 64)[0]
    goal = measure.of(model, task, teacher, [])
    _, features = Watched(model.program(TASK.example()), goal.edges)(images)
    return float(goal.value(None, Unlabelled(images), features))


def unpredicted(model, teacher):
    """The share of the teacher's features that no affine map of the network's predicts."""
    images, missed = TASK.data("validation", 64)[0], 0.0
    ours, theirs = (Watched(m.program(TASK.example()), EDGES)(images)[1] for m in (model, teacher))
    for edge in EDGES:
        x, y = (f[edge].transpose(0, 1).flatten(1).T.double() for f in (ours, theirs))
        x, y = torch.cat([x, torch.ones(len(x), 1)], 1), y - y.mean(0)
        missed += float(
            (y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution).square().sum() / y.square().sum()
        )
    return missed


@pytest.mark.parametrize(
    ("loss", "measure"),
    [
        (Hints(), None),
        (Attention(), Attention()),
        (Features(), Features()),
        ([Features(weight=0.5), Distillation()], Features()),
    ],
    ids=str,
)
def test_training_brings_features_nearer_and_sees_no_label(teacher, student, loss, measure):
    epochs, lr = (20, 0.01) if measure else (60, 0.03)  # regressors begin anywhere
    step = Finetune(epochs=epochs, optimizer="adam", momentum=0.9, lr=lr, loss=loss)
    assert step.needs == "unlabelled"
    task = Restricted(TASK, step.needs)
    assert {type(batch) for batch in task.batches("train", seed=0, epoch=0)} == {Unlabelled}
    tuned = step.apply(student, task, Context(baseline=teacher))
    far = partial(apart, measure=measure) if measure else unpredicted  # a regressor asks for no more
    assert far(tuned, teacher) < 0.7 * far(student, teacher)


def test_a_thin_student_has_hints_of_a_wide_teacher_and_keeps_no_regressor(teacher):
    thin = Prune(keep=0.5, of="channels", saliency=Magnitude()).apply(teacher, TASK, Context())
    assert thin.tensors["stem.weight"].shape[0] < 4
    with pytest.raises(ConfigError, match="another number of channels") as error:
        Finetune(loss=Features()).apply(thin, TASK, Context(baseline=teacher))
    assert "hints" in str(error.value)
    tuned = Finetune(**OPTIONS, loss=Hints()).apply(thin, TASK, Context(baseline=teacher))
    assert tuned.tensors.keys() == thin.tensors.keys()
    goal = Hints().of(thin, TASK, teacher, [])
    assert {part.weight.shape for part in goal.parts.values()} == {(4, thin.tensors["stem.weight"].shape[0])}
    assert loads(dumps(pack(tuned))).tensors.keys() == thin.tensors.keys()


LOSSES = [Hints(), Guidance(), [TaskLoss(), Attention()]]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path, monkeypatch, teacher, student, loss):
    """What trains beside the network (regressors, a teacher, its norms) is resumed too."""
    monkeypatch.setattr(minimise, "__kwdefaults__", {**minimise.__kwdefaults__, "save_seconds": 0.0})
    step = Finetune(**OPTIONS, loss=loss)

    def tuned(scratch):
        return step.apply(student, TASK, Context(baseline=teacher, scratch=scratch, seed=2)).hash

    with killed_at(4):
        tuned(tmp_path / "killed")
    assert tuned(tmp_path / "killed") == tuned(tmp_path / "whole")


def test_guidance_is_two_networks_trained_at_once_by_hand(teacher, student):
    """Sums of both losses and of the difference; the teacher ends elsewhere, and the one that was given stays."""
    before = teacher.hash
    step = Finetune(
        epochs=1, optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=0.1, loss=Guidance(weight=3.0)
    )
    found = step.apply(student, TASK, Context(baseline=teacher, seed=4))
    networks, kept = [], [{}, {}]
    for model, features in zip((student, teacher), kept, strict=True):
        network = TASK.model()
        network.load_state_dict(model.module.state_dict())
        network.train().requires_grad_(True)
        for name in ("stem", "first", "second"):
            read = dict(network.named_modules())[name]
            change = torch.relu if name == "stem" else nn.Identity()
            read.register_forward_hook(
                lambda module, inputs, output, name=name, change=change, features=features:
                features.update({name: change(output).clone()})
            )  # fmt: skip
        networks.append(network)
    names = sorted(goal_of(Guidance(), student, teacher).edges)
    places = {"relu": "stem", "relu_2": "first", "relu_4": "second"}
    optimizer = torch.optim.SGD([p for network in networks for p in network.parameters()], 0.1)
    rates = step.options(TASK)
    batches = list(TASK.batches("train", seed=4, epoch=0))
    for index, (images, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(rates, (index + 0.5) / len(batches))
        optimizer.zero_grad()
        loss = sum(TASK.loss(network(images), (images, labels)) for network in networks)
        for name in names:
            maps = [features[places[name]].square().sum(1).flatten(1) for features in kept]
            first, second = (m / m.norm(dim=1, keepdim=True) for m in maps)
            loss = loss + 3 * (first - second).square().sum(1).mean()
        loss.backward()
        optimizer.step()
    ours, theirs = (network.state_dict() for network in networks)
    for name, tensor in found.tensors.items():
        torch.testing.assert_close(tensor.detach(), ours[name], atol=2e-5, rtol=2e-4)
    assert not torch.equal(theirs["stem.weight"], teacher.tensors["stem.weight"]) and teacher.hash == before


def test_gradients_of_guidance_reach_both_and_of_attention_the_student_alone(teacher, student):
    batch = next(iter(TASK.batches("train", seed=0, epoch=0)))
    for loss, both in ((Guidance(weight=1e4), True), (Attention(), False)):
        goal, frozen = loss.of(student, TASK, teacher, []), [*teacher.module.parameters()]
        program = student.program(TASK.example()).training(TASK.model().train())
        values = {name: tensor.detach().clone().requires_grad_(tensor.is_floating_point() and "running" not in name)
                  for name, tensor in student.tensors.items()}  # fmt: skip
        output, features = Watched(program, goal.edges, grad=True)(batch[0], values)
        (goal.value(output, batch, features)).backward()
        assert float(values["stem.weight"].grad.abs().max()) > 0
        assert all(parameter.grad is None for parameter in frozen)
        companions = [part for part in goal.parts.values() if isinstance(part, Companion)]
        assert bool(companions) == both
        assert all(
            float(p.grad.abs().max()) > 0 for part in companions for p in part.parameters() if p.dim() > 1
        )


def test_losses_add_up(teacher, student):
    batch = next(iter(TASK.batches("train", seed=0, epoch=0)))
    several = [TaskLoss(), Attention(), Hints(), Hints(weight=2.0, at=["relu_2"])]
    goals = [loss.of(student, TASK, teacher, [], 1) for loss in several]
    goal = total(goals)
    output, features = Watched(student.program(TASK.example()), goal.edges)(batch[0])
    each = [float(one.value(output, batch, features).detach()) for one in goals]
    assert float(goal.value(output, batch, features).detach()) == pytest.approx(sum(each), rel=1e-5)
    assert len(goal.parts) == len(goals[2].parts) + 1  # two of one edge are two


def test_activations_are_compared_as_their_quantizers_leave_them(teacher, student):
    model = Calibrate(bits=2, samples=32).apply(student, TASK, Context())
    assert "relu_2" in model.activations
    seen = {}

    class Looking(Features, frozen=True, kw_only=True, tag="looking"):
        def apart(self, ours, theirs, part):
            seen["ours"], seen["theirs"] = ours.detach(), theirs
            return super().apart(ours, theirs, part)

    goal = Looking(at=["relu_2"]).of(model, TASK, teacher, [])
    minimise(model, ["fc.bias", "stem.weight"], {}, of_network(model, TASK, goal), Training(epochs=1))
    assert len(seen["ours"].unique()) <= 4 < len(seen["theirs"].unique())


def test_recipes_have_them_and_teachers_may_be_earlier_steps(tmp_path):
    recipe = parse_recipe("""
[[steps]]
step = "train"
epochs = 1

[[steps]]
step = "encode"
format = { format = "int", bits = 2 }

[[steps]]
step = "finetune"
epochs = 1
where = "weights"
format = { format = "int", bits = 2 }
loss = [{ loss = "distillation" }, { loss = "attention", weight = 10.0, teacher = { teacher = "step", number = 0 } }]

[[steps]]
step = "finetune"
epochs = 1
loss = { loss = "hints", at = { relu_4 = "relu_2" } }
""")
    assert parse_recipe(recipe.toml()) == recipe
    assert [step.needs for step in recipe.steps] == ["labelled", "none", "unlabelled", "unlabelled"]
    made = run(Recipe(recipe.steps), TASK, threads=1, store=Store(tmp_path))
    assert set(made[-1].model.weights) == {"stem.weight", "fc.weight", *(
        f"{block}.conv{n}.weight" for block in ("first", "second") for n in (1, 2)
    )}  # fmt: skip


def test_what_means_nothing_is_refused(teacher):
    def refused(loss, model=teacher, task=TASK):
        with pytest.raises(ConfigError) as error:
            loss.of(model, task, model, [])
        return str(error.value)

    assert "nowhere" in refused(Hints(at=["nowhere"]))
    assert "the teacher has no such activation" in refused(Hints(at={"relu": "nowhere"}))
    assert "one place" in refused(Attention(at=["mean"])) and "one place" in refused(Guidance(at=["mean"]))
    assert "another size" in refused(Hints(at={"relu": "mean"}))
    with pytest.raises(ConfigError, match="at"):
        Hints(at=[])
    with pytest.raises(ConfigError, match="loss"):
        Finetune(loss=[])
    flat = Model.of(nn.Linear(64, 4))
    assert "no blocks to compare" in refused(Features(), flat, Flat())


class Flat(Tiny):
    def example(self):
        return torch.ones(2, 64)
