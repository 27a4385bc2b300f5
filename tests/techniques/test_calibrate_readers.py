"""Activations rounded for one reader alone: layers read few bits, skip connections carry more, or floats."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TinyOf
from torch import nn

from featherweight.activations import Affine, ends
from featherweight.artifact import dumps, loads
from featherweight.engines import onnxruntime_session
from featherweight.errors import ConfigError, IntegrityError, UnsupportedError
from featherweight.evaluation.parity import layer_parity
from featherweight.export import build_qdq
from featherweight.export.c import c_of
from featherweight.export.check import arrays
from featherweight.export.onnx import export
from featherweight.formats import Int
from featherweight.graph.quantizable import tied
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.simulation import fake_quantize, simulate
from featherweight.task import Restricted
from featherweight.techniques import Calibrate, Context, Encode, Finetune, Fold, Train
from featherweight.training.methods import Lsq

# What the skip connection carries is read by two layers as well; the sum, behind its ReLU and a pool, by the last.
READS = {"relu>conv2d_1", "relu>conv2d_2"}


class Skip(nn.Module):
    """Two layers beside a skip connection, whose sum is pooled for a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.norm3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(32, 4)

    def forward(self, x):
        x = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(x))
        y = y + self.norm3(self.conv3(x)) + x
        return self.fc(nn.functional.max_pool2d(self.relu(y), 4).flatten(1))


TASK = TinyOf(size=128, network=Skip)


def apply(step, model, scratch=None):
    return step.apply(model, Restricted(TASK, step.needs), Context(seed=1, scratch=scratch))


@pytest.fixture(scope="module")
def trained():
    return apply(Train(epochs=6), Model.of(TASK.model()))


def calibrated(model, **options):
    return apply(Calibrate(samples=64, **options), model)


class ByHand(nn.Module):
    """The network as anyone would write it, with a quantizer before each layer and others beside."""

    def __init__(self, net, activations):
        super().__init__()
        self.net, self.quantizers = net, activations

    def q(self, edge, x):
        if edge not in self.quantizers:
            return x
        low, high = self.quantizers[edge].range
        inside = torch.where((x >= low) & (x <= high), x, 0.0)
        return inside + (fake_quantize(x.detach(), self.quantizers[edge]) - inside).detach()

    def forward(self, x):
        n, q = self.net, self.q
        x = q("relu", torch.relu(n.norm1(n.conv1(q("x", x)))))
        y = q("batch_norm_1", n.norm2(n.conv2(q("relu>conv2d_1", x))))
        y = q("add", y + q("batch_norm_2", n.norm3(n.conv3(q("relu>conv2d_2", x)))))
        y = nn.functional.max_pool2d(q("relu_1", torch.relu(y + x)), 4).flatten(1)
        return n.fc(q("view", y))


def widths(model):
    return {edge: quantizer.bits for edge, quantizer in model.activations.items()}


def test_layers_read_few_bits_of_what_others_read_in_more(trained):
    found = widths(calibrated(trained, bits=4, others=8))
    assert {edge for edge in found if ends(edge)[1]} == READS
    assert {found[edge] for edge in READS} == {4}
    assert {found[edge] for edge in ("relu", "batch_norm_1", "batch_norm_2", "add")} == {8}
    assert found["x"] == 4  # nothing but a layer reads it
    assert found["relu_1"] == 4  # a pool, and then a layer alone


def test_others_stay_in_float(trained):
    found = widths(calibrated(trained, bits=3, others="float", widths={"conv1": 8}))
    assert found.keys() == {"x", *READS, "view"}
    assert found.pop("x") == 8
    assert {*found.values()} == {3}


def test_equal_widths_round_once(trained):
    model = calibrated(trained, bits=8, others=8)
    assert model.activations == calibrated(trained, bits=8).activations


def test_a_layer_of_other_width_has_it_alone(trained):
    found = widths(calibrated(trained, bits=4, others=8, widths={"conv2": 6}))
    assert (found["relu>conv2d_1"], found["relu>conv2d_2"], found["relu"]) == (6, 4, 8)


@pytest.mark.parametrize("others", [8, "float"])
def test_simulation_is_the_network_by_hand(trained, others):
    model = calibrated(trained, bits=4, others=others)
    x = TASK.data("test", 16)[0]
    with torch.no_grad():
        found = simulate(model, TASK.example())(x)
        expected = ByHand(model.module, model.activations)(x)
    assert not expected.equal(model.module(x))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("others", [8, "float"])
def test_training_is_that_of_the_network_by_hand(trained, others):
    model = calibrated(trained, bits=4, others=others)
    step = Finetune(epochs=1, lr=0.02, schedule="constant", momentum=0.0, weight_decay=0.0)
    found = apply(step, model)
    network = ByHand(Model.of(trained.module).module.train(), model.activations)
    copy = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    for batch in TASK.batches("train", seed=1, epoch=0):
        output = torch.func.functional_call(network, {**copy, **buffers}, (batch[0],))
        loss = TASK.loss(output, batch)
        for parameter, gradient in zip(
            copy.values(), torch.autograd.grad(loss, [*copy.values()]), strict=True
        ):
            parameter.data -= 0.02 * gradient
    for name, parameter in copy.items():
        own = found.tensors[name.removeprefix("net.")]
        torch.testing.assert_close(own, parameter.detach(), rtol=1e-4, atol=1e-5)


def test_each_reader_learns_a_step_of_its_own(trained):
    model = calibrated(trained, bits=4, others=8)
    graph = model.program(TASK.example()).graph
    assert [group for group in tied(graph, model.activations) if ends(group[0])[1]] == [
        (e,) for e in sorted(READS)
    ]
    step = Finetune(format=Int(bits=4), method=Lsq(), epochs=1, lr=0.05)
    learned = apply(step, model).activations
    assert learned.keys() == model.activations.keys()
    steps = [learned[edge].scale / model.activations[edge].scale for edge in sorted(READS)]
    assert steps[0] != steps[1]
    assert 1.0 not in steps


@pytest.fixture(scope="module")
def integers(trained):
    model = calibrated(trained, bits=4, others=8)
    model = apply(Finetune(format=Int(bits=4), method=Lsq(narrow=True), epochs=1, lr=0.02), model)
    return apply(Fold(), model)


def test_folding_renames_both_ends(integers):
    assert integers.activations.keys() >= READS
    assert not [note for note in integers.notes if note.kind == "thawed"]
    assert integers.activations.keys() <= {
        *READS,
        "x",
        "relu",
        "conv2d_1",
        "conv2d_2",
        "add",
        "relu_1",
        "max_pool2d",
        "view",
    }


def test_they_run_as_integers(integers):
    x = TASK.data("test", 16)[0]
    graph = export(integers.module, TASK.example())
    parts = layer_parity(integers, graph, x)
    assert {part.edge for part in parts} >= READS
    assert all(part.right for part in parts)
    assert not build_qdq(graph, arrays(integers.module), integers.weights, integers.activations).floats
    session = loads(dumps(pack(integers, graph))).session()
    expected = simulate(integers, TASK.example())(x).numpy()
    ran = session.run({"x": x.numpy()})
    np.testing.assert_allclose(ran, expected, atol=0.05 * np.ptp(expected))


def test_they_come_back_from_the_file(integers):
    graph = export(integers.module, TASK.example())
    assert dict(loads(dumps(pack(integers, graph))).activations) == dict(integers.activations)


def test_layers_alone_in_integers_run_too(trained):
    model = apply(Encode(format=Int(bits=8)), calibrated(trained, bits=8, others="float"))
    x = TASK.data("test", 16)[0]
    parts = layer_parity(model, export(model.module, TASK.example()), x)
    assert all(part.right for part in parts)


@pytest.mark.parametrize("edge", ["relu>nowhere", "nowhere>conv2d_1"])
def test_an_edge_that_is_none_is_refused(trained, edge):
    model = calibrated(trained, bits=4)
    forged = replace(model, activations={**model.activations, edge: Affine(1.0, 0)})
    with pytest.raises(IntegrityError, match="on no value of the graph"):
        pack(forged, export(model.module, TASK.example()))
    with pytest.raises(UnsupportedError, match="on no edge of the network"):
        simulate(forged, TASK.example())


def test_an_activation_that_its_reader_does_not_read_is_refused(trained):
    model = calibrated(trained, bits=4)
    forged = replace(model, activations={**model.activations, "x>conv2d_1": Affine(1.0, 0)})
    with pytest.raises(UnsupportedError, match="on no edge of the network"):
        simulate(forged, TASK.example())


def test_one_bit_runs(trained):
    model = apply(
        Encode(format=Int(bits=8, scale_by="mse")), calibrated(trained, bits=1, others=8, widths={"conv1": 8})
    )
    assert {widths(model)[edge] for edge in READS} == {1}
    parts = layer_parity(model, export(model.module, TASK.example()), TASK.data("test", 16)[0])
    assert all(part.right for part in parts)


def test_floats_are_no_integers():
    with pytest.raises(ConfigError, match="in float, and in integers"):
        Calibrate(others="float", outputs=True)
    with pytest.raises(ConfigError, match="one bit has no sign"):
        Calibrate(bits=8, widths={"*": 1}, signed=True)
    with pytest.raises(ConfigError, match="belongs to integers"):
        Calibrate(others=8, numbers="bfloat16")


def test_products_widened_to_32_bits_run_where_layers_write_floats(trained):
    model = apply(Encode(format=Int(bits=8)), calibrated(trained, bits=8, others="float"))
    made = build_qdq(
        export(model.module, TASK.example()), arrays(model.module), model.weights, model.activations
    )
    x = TASK.data("test", 16)[0].numpy()
    wide, plain = (onnxruntime_session(made.onnx.SerializeToString(), 1, wide=wide) for wide in (True, False))
    np.testing.assert_allclose(wide.run(None, {"x": x})[0], plain.run(None, {"x": x})[0], atol=1e-5)


class Padded(nn.Module):
    """A skip connection around zeros that are padded before a layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.pad = nn.Conv2d(1, 8, 3, padding=1), nn.ZeroPad2d((0, 2, 1, 1))
        self.conv2, self.fc = nn.Conv2d(8, 8, 3), nn.Linear(32, 4)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        y = torch.relu(self.conv2(self.pad(x)) + x)
        return self.fc(nn.functional.max_pool2d(y, 4).flatten(1))


@pytest.fixture(scope="module")
def padded():
    torch.manual_seed(5)
    network = Model.of(Padded().eval())
    return calibrated(
        apply(Encode(format=Int(bits=8, scale_by="mse"), portable=True), network), bits=4, others=8
    )


def test_padding_that_a_layer_takes_in_keeps_what_it_reads(padded):
    x = TASK.data("test", 16)[0]
    assert {edge for edge in padded.activations if ends(edge)[1]} == {"pad>conv2d_1"}
    graph = export(padded.module, TASK.example())
    assert all(part.right for part in layer_parity(padded, graph, x))
    made = build_qdq(graph, arrays(padded.module), padded.weights, padded.activations)
    assert "Pad" not in {node.op_type for node in made.onnx.graph.node}
    assert "relu>conv2d_1/integer" in {name for node in made.onnx.graph.node for name in node.output}


def test_padding_of_what_is_rounded_behind_it_alone_stays():
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.ZeroPad2d(1), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(144, 4)
    )
    model = apply(Encode(format=Int(bits=8, scale_by="mse"), portable=True), Model.of(network.eval()))
    model = calibrated(model, bits=4, others="float")
    assert "pad" in model.activations and "relu" not in model.activations
    parts = layer_parity(model, export(model.module, TASK.example()), TASK.data("test", 16)[0])
    assert {"pad", "view"} <= {part.edge for part in parts}
    assert all(part.right for part in parts)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
@pytest.mark.parametrize("which", ["integers", "padded"])
def test_headers_in_c_read_as_layers_do(which, tmp_path, request):
    model, x = request.getfixturevalue(which), TASK.data("test", 64)[0]
    artifact = loads(dumps(pack(model, export(model.module, TASK.example()))))
    source = c_of(artifact)
    assert source.kind == "network"
    for name, text in source.files.items():
        (tmp_path / name).write_text(text)
    subprocess.run(["gcc", "-std=c99", "-O1", "main.c", "-o", "model", "-lm"], cwd=tmp_path, check=True)
    told = subprocess.run(
        [tmp_path / "model"], input=x.numpy().tobytes(), check=True, capture_output=True
    ).stdout
    scores = np.array([line.split()[1:] for line in told.decode().splitlines()], np.float32)
    np.testing.assert_array_equal(scores, artifact.session().run(x.numpy()))
