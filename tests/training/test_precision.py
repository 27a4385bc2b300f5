"""Training in half precision: products are rounded, weights are not; the loss is scaled in float16; resumed."""

from itertools import pairwise

import pytest
import torch
from killing import killed_at
from safetensors.torch import load_file
from tiny import Tiny
from torch import nn

from featherweight.errors import TaskError
from featherweight.events import Progress
from featherweight.model import Model, equal_bits, to_bytes
from featherweight.recipe import Recipe, Store, run
from featherweight.task.training import Training, learning_rate
from featherweight.techniques import Train
from featherweight.training import scaling
from featherweight.training.loop import Objective, minimise
from featherweight.training.scaling import PATIENCE, START

HALVES = ["bfloat16", "float16"]
EPS = 2.0**-10  # of float16


def trained(precision, tmp_path, epochs=3):
    step = Train(epochs=epochs, precision=precision)
    return run(Recipe([step]), Tiny(), threads=1, store=Store(tmp_path / precision))[-1].model


@pytest.mark.parametrize("precision", HALVES)
def test_weights_stay_float32_and_differ(tmp_path, precision):
    exact, rounded = trained("float32", tmp_path), trained(precision, tmp_path)
    assert all(rounded.tensors[name].dtype == tensor.dtype for name, tensor in exact.tensors.items())
    weights = [name for name, tensor in exact.tensors.items() if tensor.dim() > 1]
    assert any(not torch.equal(exact.tensors[name], rounded.tensors[name]) for name in weights)
    # none of them has been rounded to the mantissa of the type
    half = getattr(torch, precision)
    assert any((rounded.tensors[name] != rounded.tensors[name].to(half).float()).any() for name in weights)


@pytest.mark.parametrize("precision", HALVES)
def test_it_learns(tmp_path, precision):
    task = Tiny()
    images, labels = task.data("validation", 256)
    with torch.no_grad():
        scores = trained(precision, tmp_path, epochs=6).module.eval()(images)
    assert (scores.argmax(1) == labels).float().mean() > 0.9


INPUTS = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5)).train()


def losses(factors):
    """Return an objective whose loss at step i of every epoch is multiplied by `factors[i]`, and what losses saw."""
    seen, module = [], network()

    def forward(values, factor):
        return {"scores": [torch.func.functional_call(module, values, (INPUTS,))], "factor": factor}

    def loss(output, factor):
        seen.append(output["scores"][0].dtype)
        return (output["scores"][0] - TARGETS).square().mean() * factor

    return Objective("factors", lambda epoch: list(factors), forward, loss), seen


def descended(options, factors, events=lambda event: None, folder=None):
    model = Model.of(network())
    names = [name for name, tensor in model.tensors.items() if isinstance(tensor, nn.Parameter)]
    objective, seen = losses(factors)
    found = minimise(model, names, {}, objective, options, events=events, scratch=folder, save_seconds=0.0)
    return found, seen


def one_step(precision, factor):
    """Return the gradients by a single step of gradient descent at rate 1."""
    start = Model.of(network()).tensors
    options = Training(epochs=1, lr=1.0, momentum=0.0, schedule="constant", precision=precision)
    found, seen = descended(options, [factor])
    assert set(seen) == {torch.float32}
    return {name: start[name] - found[name] for name in found if isinstance(start[name], nn.Parameter)}


def test_gradients_are_those_of_float32_within_float16():
    exact, found = one_step("float32", 1.0), one_step("float16", 1.0)
    for name, gradient in exact.items():
        if name != "0.bias":  # batch norm takes its mean away: it has none
            assert (found[name] - gradient).norm() < 2 * EPS * gradient.norm(), name
    assert any(not torch.equal(found[name], exact[name]) for name in exact)


def test_scaling_keeps_gradients_that_float16_does_not_have():
    tiny = 1e-6  # greater gradients than 65504 / 2**16 / tiny there are none here
    module, weight = network(), {}
    for scale in (1.0, START):
        module.zero_grad()
        with torch.autocast("cpu", torch.float16):
            output = module(INPUTS)
        ((output.float() - TARGETS).square().mean() * tiny * scale).backward()
        weight[scale] = module[3].weight.grad / scale
    exact = one_step("float32", 1.0)["3.weight"] * tiny
    assert (weight[1.0] - exact).norm() > 0.5 * exact.norm()  # most are lost
    assert (weight[START] - exact).norm() < 2 * EPS * exact.norm()


def test_the_rule_is_that_of_torch(monkeypatch):
    scaler = torch.amp.GradScaler("cpu")
    assert (scaler.get_scale(), scaler.get_growth_interval()) == (START, PATIENCE)
    monkeypatch.setattr(scaling, "PATIENCE", 3)
    factors = [1.0, 1e9, 1e9, 1.0, 1.0, 1.0, 1.0, 1e9, 1.0, 1.0, 1.0]
    options = Training(epochs=2, lr=0.05, optimizer="adamw", clip=0.5, weight_decay=0.1, precision="float16")
    heard = []
    found, _ = descended(options, factors, heard.append)
    scaler, module = torch.amp.GradScaler("cpu", growth_interval=3), network()
    groups = [
        {"params": [p for p in module.parameters() if (p.dim() > 1) == many], "weight_decay": decay}
        for many, decay in ((True, 0.1), (False, 0.0))
    ]
    optimizer, scales = torch.optim.AdamW(groups, betas=(0.9, 0.999)), []
    for epoch in range(2):
        for i, factor in enumerate(factors):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(options, epoch + (i + 0.5) / len(factors))
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                output = module(INPUTS)
            scaler.scale((output.float() - TARGETS).square().mean() * factor).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 0.5)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
    assert min(scales) < START and any(b > a for a, b in pairwise(scales))
    assert all(equal_bits(found[name], tensor) for name, tensor in module.state_dict().items())
    heard = [event.figures["scale"] for event in heard if isinstance(event, Progress)]
    assert heard == [scales[len(factors) - 1], scales[-1]]


def test_a_step_that_overflows_changes_no_weight():
    start, options = Model.of(network()).tensors, Training(epochs=1, lr=1.0, precision="float16")
    found, _ = descended(options, [1e9])
    kept = [name for name, tensor in start.items() if isinstance(tensor, nn.Parameter)]
    assert all(torch.equal(found[name], start[name]) for name in kept)
    assert not torch.equal(found["1.running_mean"], start["1.running_mean"])  # the forward pass was sound


def test_gradients_that_overflow_without_a_scale_are_an_error():
    with pytest.raises(TaskError, match=r"(?s)gradients overflow, though .*bfloat16"):
        descended(Training(epochs=1, lr=0.1, precision="float16"), [1e12] * 20)
    with pytest.raises(TaskError, match=r"(?s)not finite.*step 0.*65,504"):
        descended(Training(epochs=1, lr=0.1, precision="float16"), [float("inf")])


def test_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "PATIENCE", 3)
    options, factors = Training(epochs=2, lr=0.05, precision="float16"), [1.0, 1e9, 1e9, 1.0, 1.0, 1.0]
    undisturbed = {name: to_bytes(tensor) for name, tensor in descended(options, factors)[0].items()}
    scales = []
    for kill_at in range(2, 10):
        folder = tmp_path / str(kill_at)
        with killed_at(kill_at):
            descended(options, factors, folder=folder)
        kept = load_file(folder / "training.safetensors")
        scales.append((float(kept["scale/value"]), int(kept["scale/good"])))
        found, _ = descended(options, factors, folder=folder)
        assert {name: to_bytes(tensor) for name, tensor in found.items()} == undisturbed
    assert len(set(scales)) > 4
