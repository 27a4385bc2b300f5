"""Training through quantizers: against a loop by hand, learned ranges, folding behind it, integers that run."""

import numpy as np
import pytest
import torch
from killing import killed_at
from tiny import TinyOf
from torch import nn

from featherweight.activations import Affine
from featherweight.capture.execution import Execution
from featherweight.errors import ConfigError, UnsupportedError
from featherweight.evaluation.parity import layer_parity
from featherweight.events import Progress
from featherweight.export import build_qdq
from featherweight.export.check import arrays
from featherweight.export.onnx import export
from featherweight.formats import Basis, Int
from featherweight.graph.quantizable import tied
from featherweight.model import Model
from featherweight.simulation import fake_quantize, simulate
from featherweight.task import Restricted
from featherweight.task.training import learning_rate
from featherweight.techniques import Calibrate, Context, Encode, Finetune, Fold, Train
from featherweight.training.loop import minimise
from featherweight.training.methods import Dsq, Lsq, Pact
from featherweight.training.methods.oscillations import Oscillations


class Residual(nn.Module):
    """Batch norms, a sum that is written in place, a clamp behind it, a pool and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.norm3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(32, 4)

    def forward(self, x):
        x = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(x))
        y += self.norm3(self.conv3(x))
        return self.fc(nn.functional.max_pool2d(self.relu(y), 4).flatten(1))


TASK = TinyOf(size=128, network=Residual)


def apply(step, model, scratch=None, task=TASK):
    return step.apply(model, Restricted(task, step.needs), Context(seed=1, scratch=scratch))


@pytest.fixture(scope="module")
def trained():
    return apply(Train(epochs=8), Model.of(TASK.model()))


def calibrated(model, **options):
    return apply(Calibrate(samples=64, **options), model)


def loss(model, task=TASK):
    network = simulate(model, task.example())
    with torch.no_grad():
        batches = list(task.batches("validation", seed=0, epoch=0))
        return sum(float(task.loss(network(batch[0]), batch)) for batch in batches) / len(batches)


def with_float_biases(model, x):
    """What `simulate` computes, but for biases, which it rounds to int32 steps of a layer's products."""
    quantizers = model.activations

    def visit(edge, value):
        return fake_quantize(value, quantizers[edge]) if edge in quantizers else value

    return Execution(model.program(TASK.example()), visit)({"x": x})[0]


class ByHand(nn.Module):
    """The residual network as anyone would write it with quantizers of activations."""

    def __init__(self, net, activations):
        super().__init__()
        self.net, self.quantizers = net, activations

    def q(self, edge, x):
        low, high = self.quantizers[edge].range
        rounded = fake_quantize(x.detach(), self.quantizers[edge])
        inside = ((x >= low) & (x <= high)).detach()
        return torch.where(inside, x, 0.0) + (rounded - torch.where(inside, x, 0.0)).detach()

    def forward(self, x):
        n = self.net
        x = self.q("relu", torch.relu(n.norm1(n.conv1(self.q("x", x)))))
        y = self.q("batch_norm_1", n.norm2(n.conv2(x)))
        y = y + self.q("batch_norm_2", n.norm3(n.conv3(x)))
        y = nn.functional.max_pool2d(self.q("relu_1", torch.relu(y)), 4)
        return n.fc(y.flatten(1))


def test_fixed_quantizers_are_trained_through_as_by_hand(trained):
    model = calibrated(trained, bits=4)
    assert {"x", "relu", "batch_norm_1", "batch_norm_2", "relu_1"} <= model.activations.keys()
    step = Finetune(epochs=2, lr=0.02)
    found, options = apply(step, model), step.options(TASK)
    network = ByHand(Model.of(trained.module).module.train(), model.activations)
    params = {n: p.detach().clone().requires_grad_(True) for n, p in network.named_parameters()}
    buffers = {n: b.clone() for n, b in network.named_buffers()}
    groups = [
        {"params": [p for p in params.values() if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in params.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=options.momentum)
    for epoch in range(options.epochs):
        batches = TASK.batches("train", seed=1, epoch=epoch)
        for i, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(options, epoch + (i + 0.5) / len(batches))
            optimizer.zero_grad()
            output = torch.func.functional_call(network, params | buffers, (batch[0],))
            TASK.loss(output, batch).backward()
            optimizer.step()
    for name, tensor in found.tensors.items():
        expected = (params | buffers)[f"net.{name}"]
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-4)
    assert found.activations == model.activations
    around = apply(step, trained)  # what it would be without the quantizers
    assert not torch.allclose(around.tensors["fc.weight"], found.tensors["fc.weight"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step", [Finetune(epochs=2), Train(epochs=2)])
def test_wide_quantizers_train_as_none(trained, step):
    wide = apply(step, calibrated(trained, bits=16, ranges="minmax"))
    none = apply(step, trained)
    for name in ("conv1.weight", "fc.weight", "norm2.running_var"):
        torch.testing.assert_close(wide.tensors[name], none.tensors[name], rtol=1e-2, atol=2e-3)
    assert all(quantizer.bits == 16 for quantizer in wide.activations.values())


def test_learned_steps_and_ranges_beat_rounding(trained):
    low = calibrated(trained, bits=2, widths={"conv1": 8})
    rounded = apply(Encode(format=Int(bits=2, scale_by="mse")), low)
    step = Finetune(format=Int(bits=2), formats={"conv1.*": Int(bits=8)}, method=Lsq(), epochs=12, lr=0.05)
    tuned = apply(step, low)
    assert loss(tuned) < 0.5 * loss(rounded)
    assert tuned.weights["conv1.weight"].format.bits == 8 and tuned.weights["fc.weight"].format.bits == 2
    assert tuned.activations["x"].bits == 8 and tuned.activations["relu"].bits == 2
    assert tuned.activations.keys() == low.activations.keys()
    assert tuned.activations["relu"].scale != low.activations["relu"].scale
    assert tuned.activations["relu"].zero_point == 0
    for group in tied(tuned.program(TASK.example()).graph, low.activations):
        assert len({tuned.activations[edge] for edge in group}) == 1


def test_edges_that_share_a_quantizer_are_tied():
    graph = Model.of(TASK.model()).program(TASK.example()).graph
    one, two = Affine.of(0, 6), Affine.of(-1, 6)
    every = dict.fromkeys(("x", "relu", "batch_norm_1", "batch_norm_2", "relu_1", "max_pool2d", "view"), one)
    assert tied(graph, every) == (
 ("x",), ("relu",), ("batch_norm_1", "batch_norm_2"), ("relu_1", "max_pool2d", "view"),
    )  # fmt: skip
    apart = every | {"batch_norm_2": two}
    assert ("batch_norm_1",) in tied(graph, apart) and ("batch_norm_2",) in tied(graph, apart)


def test_progress_shows_how_many_weights_oscillate(trained):
    heard, step = [], Finetune(format=Int(bits=3), method=Lsq(oscillations=Oscillations()), epochs=1)
    step.apply(trained, Restricted(TASK, step.needs), Context(seed=1, events=heard.append))
    (figures,) = [event.figures for event in heard if isinstance(event, Progress)]
    assert 0 <= figures["oscillating"] < 1 and figures["frozen"] == 0


KILLED = [
    (Lsq(oscillations=Oscillations(momentum=0.3, dampening=0.1, freezing=0.05)), Int(bits=3)),
    (Dsq(oscillations=Oscillations(momentum=0.3, freezing=0.05)), Int(bits=3, scheme="affine")),
    (Pact(), Int(bits=3)),
    (Pact(start=5.0, calibrated=True), Basis(bits=3, per="tensor")),
]


@pytest.mark.parametrize(("method", "format"), KILLED)
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path, trained, monkeypatch, method, format):
    model = calibrated(trained, bits=3)
    step = Finetune(format=format, method=method, epochs=2, optimizer="adam", lr=0.002)
    expected = apply(step, model)
    assert expected.activations != model.activations
    if not isinstance(method, Pact):
        assert expected.activations["batch_norm_1"].zero_point not in (0, 7)  # an offset trains too
    if getattr(method, "oscillations", None):
        (note,) = [note for note in expected.notes if note.name == "weights"]
        assert note.reason.endswith("% frozen") and not note.reason.endswith(" 0.00% frozen")
    monkeypatch.setattr(minimise, "__kwdefaults__", {**minimise.__kwdefaults__, "save_seconds": 0.0})
    with killed_at(6):
        apply(step, model, tmp_path)
    for _ in range(2):  # the second time from the checkpoint before the last step
        found = apply(step, model, tmp_path)
        assert found.hash == expected.hash and found.activations == expected.activations


@pytest.mark.parametrize("per", ["channel", "tensor", 4])
@pytest.mark.parametrize("bits", [2, 4])
def test_fold_behind_training_keeps_integers_and_quantizers(trained, per, bits):
    module = Model.of(trained.module).module
    with torch.no_grad():
        flipped = module.norm2.weight.detach().clone()
        flipped[::2] *= -1
        flipped[1] = 0
    start = trained.with_tensors({"norm2.weight": flipped})
    model = calibrated(start, bits=4)
    method = Lsq(narrow=True)
    tuned = apply(Finetune(format=Int(bits=bits, per=per), method=method, epochs=1), model)
    folded = apply(Fold(), tuned)
    assert not [n for n in folded.notes[len(tuned.notes) :] if n.kind in ("skipped", "thawed")]
    assert not any("norm" in name for name in folded.tensors)
    gamma = tuned.tensors["norm2.weight"].detach()
    for name in ("conv1.weight", "conv2.weight", "conv3.weight"):
        before, after = tuned.weights[name], folded.weights[name]
        assert after.format == Int(bits=bits, per="channel" if per == "tensor" else per)
        sign = np.sign(gamma.numpy()) if name == "conv2.weight" else np.ones(8)
        q = [
            np.where(e.symbols >= 1 << bits - 1, e.symbols.astype(int) - (1 << bits), e.symbols)
            for e in (before, after)
        ]
        assert np.array_equal(q[1].reshape(8, -1), q[0].reshape(8, -1) * sign[:, None])
    renamed = {"batch_norm_1": "conv2d_1", "batch_norm_2": "conv2d_2"}
    assert folded.activations == {renamed.get(e, e): q for e, q in tuned.activations.items()}
    x = TASK.data("test", 64)[0]
    with torch.no_grad():
        one, other = (with_float_biases(m, x) for m in (tuned, folded))
        torch.testing.assert_close(
            folded.module(x), tuned.module(x), rtol=1e-4, atol=1e-4 * float(tuned.module(x).abs().max())
        )
    assert float((one - other).abs().median()) < 1e-4 * float(one.std())  # almost halves may round otherwise
    assert float((one - other).abs().mean()) < 0.02 * float(one.std())


def test_the_lowest_integer_keeps_a_norm_with_a_negative_factor(trained):
    gamma = -trained.tensors["norm2.weight"].abs()
    model = apply(
        Encode(format=Int(bits=4), where="conv2.weight"), trained.with_tensors({"norm2.weight": gamma})
    )
    assert (model.weights["conv2.weight"].symbols == 8).any()
    folded = apply(Fold(), calibrated(model))
    (note,) = [n for n in folded.notes if n.name == "norm2"]
    assert note.kind == "skipped" and "the lowest" in note.reason
    assert folded.weights["conv2.weight"] is model.weights["conv2.weight"]
    assert "batch_norm" in folded.activations  # the one that is left


def test_a_norm_behind_a_quantizer_is_not_folded(trained):
    model = trained.with_activations({"conv2d_1": Affine.of(-1, 1), "x": Affine.of(0, 1)})
    folded = apply(Fold(), model)
    (note,) = [n for n in folded.notes if n.name == "norm2"]
    assert "has a quantizer" in note.reason
    assert folded.activations == model.activations


@pytest.mark.parametrize("method", [Lsq(narrow=True), Dsq(narrow=True), Pact()])
def test_eight_bits_run_as_integers_and_agree_with_the_simulation(trained, method):
    step = Finetune(format=Int(bits=8), method=method, epochs=2)
    model = apply(Fold(), apply(step, calibrated(trained)))
    assert all(quantizer.bits == 8 for quantizer in model.activations.values())
    graph = export(model.module, TASK.example())
    qdq = build_qdq(graph, arrays(model.module), model.weights, model.activations)
    assert not qdq.floats
    found = layer_parity(model, graph, TASK.data("test", 64)[0], "onnxruntime")
    assert len(found) >= 5 and all(layer.right for layer in found), found
    assert loss(model) < 1.1 * loss(trained) + 0.02


def test_what_cannot_be_meant_is_said(trained):
    with pytest.raises(ConfigError, match=r"finetune.formats: means nothing without a format"):
        Finetune(formats={"fc.weight": Int()})
    with pytest.raises(ConfigError, match="lsq cannot train int"):
        Finetune(format=Int(), formats={"fc.weight": Int(bits=32)}, method=Lsq())
    with pytest.raises(ConfigError, match=r"finetune.formats.conv1.weight"):
        apply(Finetune(format=Int(), where="fc.weight", formats={"conv1.weight": Int()}), trained)
    with pytest.raises(ConfigError, match=r"calibrate.widths: matches no layer"):
        calibrated(trained, widths={"nothing": 8})
    with pytest.raises(ConfigError, match="calibrate, widths: belongs to integers"):
        Calibrate(widths={"fc": 8}, numbers="bfloat16")
    with pytest.raises(UnsupportedError, match="nothing: has a quantizer, and is not computed in training"):
        apply(Finetune(), trained.with_activations({"nothing": Affine.of(0, 1)}))


def test_trains_in_bfloat16(trained):
    model = calibrated(trained, bits=4)
    step = Finetune(format=Int(bits=4), method=Lsq(), precision="bfloat16", epochs=2)
    low, full = apply(step, model), apply(Finetune(format=Int(bits=4), method=Lsq(), epochs=2), model)
    assert low.activations != full.activations
    for edge, quantizer in low.activations.items():
        assert quantizer.scale == pytest.approx(full.activations[edge].scale, rel=0.05)
