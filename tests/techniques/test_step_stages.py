"""Stages: each trains alone, as a loop by hand would, without labels; what is kept, resumed, spread, refused."""

import pytest
import torch
from killing import killed_at
from skip_network import Net
from test_work import Here
from torch import nn

from featherweight import Store
from featherweight.errors import TaskError
from featherweight.events import Started
from featherweight.formats import Astc, Int
from featherweight.model import Model
from featherweight.recipe import Recipe, run
from featherweight.task import Restricted
from featherweight.task.tasks import Agreement
from featherweight.techniques import Calibrate, Context, Encode, Factorize, Prune, Stages
from featherweight.techniques.encode import nearest
from featherweight.techniques.saliencies import Magnitude
from featherweight.training import features
from featherweight.training.methods import Adaround, AstcBlocks, Lsq
from featherweight.training.methods.adaround import UpOrDown
from featherweight.training.reconstruction import blocks_of

THREE = Int(bits=3, scale_by="mse")


def task(network=None, count=120):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        images = torch.randn(count + 80, 1, 6, 6)
        network = (network or Net)()
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        network.train()(images)  # statistics are those of the images
        for norm in norms:
            norm.momentum = 0.1
    few = images[count : count + 40]
    return Agreement(
        network, train=images[:count], calibration=images[:count], validation=few, test=images[count + 40 :],
        batch_size=20,
    )  # fmt: skip


def step(**options):
    settings = {"format": THREE, "method": Adaround(), "samples": 100, "batch": 20, "epochs": 4}
    return Stages(**settings | options)


def after(steps, given=None, **options):
    return run(Recipe(steps), given or task(), threads=1, **options)[-1].model


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path))


def test_a_stage_is_trained_on_what_reaches_it_towards_what_the_teacher_computes():
    given = task()
    first = Model.of(given.model())
    rounded = first.with_encoded({"stem.weight": nearest(first, "stem.weight", THREE)})
    tuned = Stages(
        by=["relu", "relu_2"], samples=20, batch=20, held=0, epochs=1, optimizer="sgd", momentum=0, lr=0.1,
        schedule="constant",
    )  # fmt: skip
    context = Context(threads=1, uncoded=first, baseline=first)
    found = tuned.apply(rounded, Restricted(given, "unlabelled"), context)

    x = given.inputs(next(iter(given.batches("calibration", seed=0, epoch=0))))
    values = {}
    with torch.enable_grad():
        for names in ("stem", "blocks.0"):
            known = {**rounded.tensors, **values}
            ours = {name: tensor.detach().clone() for name, tensor in known.items()}
            for name in ours:
                ours[name].requires_grad_(name.startswith(names) and name not in rounded.weights)
            a = torch.relu(nn.functional.conv2d(x, ours["stem.weight"], ours["stem.bias"], padding=1))
            b = block(a, ours, 0)
            theirs = torch.relu(first.module.stem(x)).detach()
            target = theirs if names == "stem" else first.module.blocks[0](theirs).detach()
            loss = ((a if names == "stem" else b) - target).square().mean() / target.var(correction=0)
            loss.backward()
            values |= {n: t.detach() - 0.1 * t.grad for n, t in ours.items() if t.grad is not None}
    for name, value in values.items():
        torch.testing.assert_close(found.tensors[name].detach(), value, rtol=1e-4, atol=1e-6)


def block(x, tensors, number):
    at = f"blocks.{number}."
    named = {name.removeprefix(at): tensor for name, tensor in tensors.items() if name.startswith(at)}
    y = torch.relu(nn.functional.conv2d(x, named["a.weight"], named["a.bias"], padding=1))
    return torch.relu(nn.functional.conv2d(y, named["b.weight"], named["b.bias"], padding=1) + x)


@pytest.mark.parametrize("by", ["block", "layer"])
@pytest.mark.parametrize("inputs", ["compressed", "float"])
def test_nothing_changes_where_nothing_is_compressed(by, inputs):
    given = task()
    first = Model.of(given.model())
    model = after([Stages(by=by, inputs=inputs, epochs=1, samples=60, batch=20)], given)
    for name, tensor in first.tensors.items():
        assert torch.equal(model.tensors[name], tensor), name  # the error is 0, and so are gradients


def test_errors_are_never_above_rounding_and_answers_are_nearer():
    given = task()
    near, staged = after([Encode(format=THREE)], given), after([step(epochs=30)], given)
    notes = [note.reason for note in staged.notes if "rounded, " in note.reason]
    assert len(notes) == 4
    for note in notes:
        before, now = (float(word) for word in note.replace(",", "").split() if word[0].isdigit())
        assert now <= before
    with torch.no_grad():
        x = torch.cat([given.inputs(batch) for batch in given.batches("test", seed=0, epoch=0)])
        truth, rounded, trained = (m.module(x) for m in (Model.of(given.model()), near, staged))
    assert (trained - truth).square().mean() < 0.7 * (rounded - truth).square().mean()


def test_a_training_that_does_harm_is_not_kept():
    given = task()
    wild = step(method=Lsq(), lr=1.0, epochs=1)  # each number moves by about 1 in a step
    near, model = (after([one], given) for one in (Encode(format=THREE), wild))
    assert all(torch.equal(model.tensors[n], t) for n, t in near.tensors.items())


def test_what_is_above_the_tolerance_trains_again_longer():
    counted = []

    def events(event):
        if isinstance(event, Started) and event.name == "relu":
            counted.append(event.total)

    after([step(tolerance=1e-9, epochs=1, by=["relu"], again=2)], events=events)
    assert counted == [4, 8, 16]  # 80 samples train, in batches of 20


@pytest.mark.parametrize("others", ["float", "alike", 8])
@pytest.mark.parametrize("inputs", ["compressed", "float"])
def test_quantizers_train_in_the_stage_that_computes_them(inputs, others):
    given, cal = task(), Calibrate(bits=3) if others == "alike" else Calibrate(bits=3, others=others)
    method = Lsq(start="encoded", lr_scale=0.1)
    staged = after(
        [cal, step(method=method, epochs=20, inputs=inputs, drop=0.5 * (inputs != "float"))], given
    )
    near = after([cal, Encode(format=THREE)], given)
    assert staged.activations.keys() == near.activations.keys()
    moved = [edge for edge in near.activations if staged.activations[edge] != near.activations[edge]]
    assert "x" not in moved
    assert moved or inputs == "float"  # stages that training makes worse on unseen inputs stay as they were


def test_the_same_bytes_by_whoever_did_what_and_after_a_kill(tmp_path, monkeypatch):
    given, apart = task(), step(inputs="float", epochs=2)
    alone = after([apart], given)
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / "killed"))
    with killed_at(11):  # within the second stage
        after([apart], given)
    again = after([apart], given)
    assert again.hash == alone.hash
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / "in a row"))
    row = after([step(epochs=2)], given)
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / "in a row, killed"))
    with killed_at(11):
        after([step(epochs=2)], given)
    assert after([step(epochs=2)], given).hash == row.hash != alone.hash


def test_features_may_lie_in_files(monkeypatch, tmp_path):
    given = task()
    small = after([step()], given)
    monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / "files"))
    monkeypatch.setattr(features, "IN_MEMORY", 0)
    assert after([step()], given).hash == small.hash


def test_one_stage_is_the_same_in_a_row_and_apart():
    given = task()
    models = [after([step(by=["mean"], inputs=inputs)], given) for inputs in ("compressed", "float")]
    first = [{n: t for n, t in model.tensors.items() if n.startswith("blocks")} for model in models]
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])


class Normed(nn.Module):
    """Batch norms, a skip connection, dropout, a view that knows the size of the batch."""

    def __init__(self):
        super().__init__()
        self.a, self.an, self.b, self.bn = (
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.BatchNorm2d(6),
        )
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(6 * 36, 3)

    def forward(self, x):
        y = torch.relu(self.an(self.a(x)))
        y = torch.relu(self.bn(self.b(y)) + y)
        return self.fc(self.drop(y.reshape(x.shape[0], -1)))


@pytest.mark.parametrize("inputs", ["compressed", "float"])
def test_batch_norms_train_and_statistics_follow_dropout_stays_off(inputs):
    given, method = task(Normed), Lsq(start="encoded", lr_scale=0.1)
    model = after([step(format=Int(bits=2), method=method, epochs=20, inputs=inputs)], given)
    near = after([Encode(format=Int(bits=2))], given)
    first = Model.of(given.model())
    assert not torch.equal(model.tensors["bn.running_var"], first.tensors["bn.running_var"])
    x = torch.cat([given.inputs(batch) for batch in given.batches("test", seed=0, epoch=0)])
    with torch.no_grad():
        truth, rounded, trained = (m.module(x) for m in (first, near, model))
    assert (trained - truth).square().mean() < 0.8 * (rounded - truth).square().mean()


def test_how_inputs_lie_in_memory_decides_nothing(tmp_path, monkeypatch):
    given = task()
    x = torch.cat([given.inputs(batch) for batch in given.batches("calibration", seed=0, epoch=0)])
    found = []
    for name, images in {"rows": x, "columns": x.transpose(2, 3).contiguous().transpose(2, 3)}.items():
        monkeypatch.setenv("FEATHERWEIGHT_DATA", str(tmp_path / name))
        found.append(
            after([step(epochs=1)], Agreement(given.model(), train=images, calibration=images, test=x))
        )
    assert found[0].hash == found[1].hash


def test_few_inputs_are_said_and_odd_ones_refused():
    given = task()
    notes = {note.name: note.reason for note in after([step(epochs=1, samples=500)], given).notes}
    assert notes["calibration"] == "only 120 inputs of the 500 asked for"
    x = torch.randn(40, 1, 6, 6)
    x[25, 0, 1, 1] = float("nan")
    with pytest.raises(TaskError, match=r"inputs hold NaN or infinity(.|\n)*sample 5 "):
        after([step(epochs=1)], Agreement(given.model(), train=x, calibration=x, test=x, batch_size=20))


def test_labels_are_not_read():
    class Silent(Agreement):
        def loss(self, output, batch):
            raise AssertionError("reads labels")

    given = task()
    silent = Silent(
        given.model(), train=torch.randn(80, 1, 6, 6), test=torch.randn(40, 1, 6, 6), batch_size=20
    )
    assert step().needs == "unlabelled"
    after([step(epochs=1)], silent)
    with pytest.raises(Exception, match="loss"):
        Stages(loss="task")


@pytest.mark.parametrize(
    "change", [Prune(keep=0.6, saliency=Magnitude(), where="*.a.weight"), Factorize(where="*.a.weight")]
)
def test_pruned_and_factorized_stages_learn_from_the_original(change):
    given = task()
    cut = after([change], given)
    mended = after([change, Stages(epochs=30, samples=100, batch=20)], given)
    x = torch.cat([given.inputs(batch) for batch in given.batches("test", seed=0, epoch=0)])
    with torch.no_grad():
        truth, before, now = (m.module(x) for m in (Model.of(given.model()), cut, mended))
    assert (now - truth).square().mean() < 0.5 * (before - truth).square().mean()


def test_stages_end_where_the_teacher_has_the_same_channels():
    given, every = task(), Prune(keep=0.6, saliency=Magnitude())
    cut = after([every], given)
    assert any(
        cut.tensors["blocks.0.b.weight"].shape != (4, 4, 3, 3) for _ in "x"
    )  # the stream has fewer channels
    model = after([every, Stages(epochs=2, samples=100, batch=20)], given)
    assert [note.name for note in model.notes if "trained" in note.reason] == [
        "stem"
    ]  # one stage, to the outputs
    layers = after([every, step(by="layer", epochs=1)], given)
    assert {*layers.weights} == {name for name, t in layers.tensors.items() if t.dim() > 1}


def test_astc_blocks_train_in_stages():
    given = task()
    format = Astc(footprint="6x6")
    near = after([Encode(format=format)], given)
    staged = after([step(format=format, method=AstcBlocks(), epochs=20)], given)
    x = torch.cat([given.inputs(batch) for batch in given.batches("test", seed=0, epoch=0)])
    with torch.no_grad():
        truth, rounded, trained = (m.module(x) for m in (Model.of(given.model()), near, staged))
    assert (trained - truth).square().mean() < 0.8 * (rounded - truth).square().mean()


def test_blocks_are_modules_of_a_few_layers():
    assert blocks_of(Net()) == ["blocks.0", "blocks.1"]
    assert blocks_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))) == []


def made(weight, method, format=THREE):
    model = Model.of(nn.Linear(*weight.shape[::-1], bias=False))
    model = model.with_tensors({"weight": weight})
    return UpOrDown(weight, nearest(model, "weight", format), method)


def test_adaround_starts_from_the_weight_and_ends_up_or_down():
    torch.manual_seed(0)
    weight = torch.randn(6, 20)
    part = made(weight, Adaround())
    steps = torch.from_numpy(part.encoded.parts["scale"]).reshape(-1, 1)
    ends = steps * torch.tensor([-4.0, 3.0])
    inside = (weight > ends[:, :1]) & (weight < ends[:, 1:])
    torch.testing.assert_close(part()[inside], weight[inside], rtol=0, atol=2e-3 * float(steps.max()))
    with torch.no_grad():
        part.v.copy_(torch.randn_like(part.v))
    frozen = torch.from_numpy(part.freeze().decode())
    assert ((frozen - weight).abs()[inside] < steps.expand_as(weight)[inside] * 1.001).all()
    with torch.no_grad():
        part.v.copy_(torch.where(part.v >= 0, 20.0, -20.0))
    assert torch.equal(part(), frozen)  # h is 0 or 1: the soft weight is the hard one


def test_the_price_of_adaround_and_its_gradient():
    part = made(torch.randn(4, 8), Adaround(price=0.5, warmup=0.25))
    assert part.penalty(0.2) == 0.0
    v = part.v.detach().double().requires_grad_()
    up = (v.sigmoid() * 1.2 - 0.1).clamp(0, 1)
    beta = 20 - 18 * (0.6 - 0.25) / 0.75
    (0.5 * (1 - (2 * up - 1).abs() ** beta).mean()).backward()
    part.penalty(0.6).backward()
    torch.testing.assert_close(part.v.grad.double(), v.grad, rtol=1e-4, atol=1e-8)


def test_zeros_stay_zero_by_adaround():
    weight = torch.randn(4, 8)
    weight[0] = 0
    part = made(weight, Adaround())
    with torch.no_grad():
        part.v.fill_(5.0)
    assert (torch.from_numpy(part.freeze().decode())[0] == 0).all()


@pytest.mark.parametrize("before", [[], [Calibrate(bits=4, others="float")]], ids=["weights", "activations"])
def test_workers_may_be_asked_in_any_order(before, tmp_path):
    method = {"method": Lsq()} if before else {}
    steps = [*before, step(by="layer", inputs="float", epochs=2, **method)]
    alone = after(steps, store=Store(tmp_path / "alone"))
    apart = after(steps, store=Store(tmp_path / "apart"), executor=Here())  # largest cost first
    assert apart.hash == alone.hash and apart.notes == alone.notes
