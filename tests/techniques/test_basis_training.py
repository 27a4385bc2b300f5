"""Training towards `Basis` as a step: it learns, resumes to the same bytes, folds, and runs as it was simulated."""

import pytest
import torch
from killing import killed_at
from tiny import Tiny

from featherweight.activations import Affine, BinaryCoded
from featherweight.artifact import dumps, loads
from featherweight.evaluation.parity import layer_parity
from featherweight.export import build_qdq
from featherweight.export.check import arrays
from featherweight.export.onnx import export
from featherweight.formats import Basis
from featherweight.formats.basis import is_geometric
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.simulation import simulate
from featherweight.task import Restricted
from featherweight.techniques import Calibrate, Context, Finetune, Fold, Train
from featherweight.training.loop import minimise
from featherweight.training.methods import Dorefa, LqNets, dorefa

TASK = Tiny(size=128)
BINARY = {
    "dorefa": (Dorefa(), "tensor"),
    "dorefa, gradients": (Dorefa(gradients=6), "tensor"),
    "lq_nets": (LqNets(), "channel"),
}


def apply(step, model, scratch=None):
    return step.apply(model, Restricted(TASK, step.needs), Context(seed=1, scratch=scratch))


@pytest.fixture(scope="module")
def trained():
    return apply(Train(epochs=8), Model.of(TASK.model()))


def calibrated(model, **options):
    return apply(Calibrate(samples=64, **options), model)


def judged(model):
    """Loss and accuracy."""
    network, batch = simulate(model, TASK.example()), TASK.data("test", 200)
    with torch.no_grad():
        output = network(batch[0])
        return float(TASK.loss(output, batch)), float((output.argmax(1) == batch[1]).float().mean())


def tuned(name, bits, **options):
    method, per = BINARY[name]
    first = {"0.weight": Basis(bits=7, per=per), "8.weight": Basis(bits=7, per=per)}
    given = {"epochs": 12, "lr": 0.05} | options
    return Finetune(format=Basis(bits=bits, per=per), formats=first, method=method, **given)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("bits", [1, 2])
def test_it_learns(trained, name, bits):
    model = calibrated(trained, bits=2, widths={"0": 8})
    after = apply(tuned(name, bits), model)
    loss, accuracy = judged(after)
    before, _ = judged(apply(tuned(name, bits, epochs=1, lr=1e-9), model))
    assert accuracy > 0.9 and loss < 0.5 * before
    assert {entry.format.bits for entry in after.weights.values()} == {bits, 7}
    assert after.activations.keys() == model.activations.keys()


def test_activations_of_dorefa_end_at_one(trained):
    model = calibrated(trained, bits=3)
    after = apply(tuned("dorefa", 2, epochs=1), model)
    third = float(torch.tensor(1 / 7))
    assert {*after.activations.values()} == {Affine(third, 0, 3)}
    assert all(is_geometric(entry) for entry in after.weights.values())


def test_gradients_are_rounded_behind_the_layers_whose_weights_train(trained, monkeypatch):
    seen = []

    def rounds(gradient, bits):
        seen.append((tuple(gradient.shape[1:]), bits))
        return torch.zeros_like(gradient)

    monkeypatch.setattr(dorefa, "rounded_gradient", rounds)
    step = Finetune(
        format=Basis(bits=2, per="tensor"),
        where=["4.weight", "8.weight"],
        method=Dorefa(gradients=3),
        epochs=1,
    )
    before = trained.tensors["0.weight"].clone()
    after = apply(step, trained)  # without quantizers of activations, too
    assert seen == [((4,), 3), ((8, 1, 1), 3)] * 4
    still = Finetune(epochs=1, weight_decay=0.0)
    assert not torch.equal(apply(still, trained).tensors["0.weight"], before)
    kept = apply(
        Finetune(
            format=Basis(bits=2, per="tensor"),
            where="8.weight",
            method=Dorefa(gradients=3),
            epochs=1,
            weight_decay=0.0,
        ),
        trained,
    )
    assert torch.equal(kept.tensors["0.weight"], before)  # no gradient passed the layer behind
    assert after.weights.keys() == {"4.weight", "8.weight"}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_killed_training_resumes_to_the_same_bytes(tmp_path, trained, monkeypatch, name, optimizer):
    model = calibrated(trained, bits=2)
    step = tuned(name, 2, epochs=3, lr=0.002, optimizer=optimizer)
    expected = apply(step, model)
    monkeypatch.setattr(minimise, "__kwdefaults__", {**minimise.__kwdefaults__, "save_seconds": 0.0})
    with killed_at(6):
        apply(step, model, tmp_path)
    for _ in range(2):  # the second time from the checkpoint before the last step
        found = apply(step, model, tmp_path)
        assert found.hash == expected.hash and found.activations == expected.activations


@pytest.mark.parametrize("name", BINARY)
def test_what_is_left_runs_as_it_was_simulated(trained, name):
    model = apply(Fold(), apply(tuned(name, 2, epochs=2), calibrated(trained, bits=2, widths={"0": 8})))
    assert not any(entry.name == "1" for entry in model.notes if entry.kind == "skipped")
    graph = export(model.module, TASK.example())
    images = TASK.data("test", 64)[0]
    found = layer_parity(model, graph, images, "onnxruntime")
    assert len(found) >= 4 and all(layer.right for layer in found), found
    file = loads(dumps(pack(model, graph)))
    assert file.activations == model.activations
    simulated = simulate(model, TASK.example())(images).numpy()
    same = (file.session().run(images.numpy()).argmax(1) == simulated.argmax(1)).mean()
    assert same >= 0.95


def test_levels_of_lq_nets_follow_what_is_behind_a_relu(trained):
    model = calibrated(trained, bits=2, widths={"0": 8})
    after = apply(tuned("lq_nets", 2, epochs=4), model)
    learned = {edge: one for edge, one in after.activations.items() if isinstance(one, BinaryCoded)}
    assert {"input", *learned} == {*model.activations} and after.activations["input"] == model.activations[
        "input"
    ]
    assert learned["relu"] == learned["max_pool2d"] != learned["relu_1"]
    old = {edge: model.activations[edge].scale for edge in learned}
    assert all(one.basis != (old[edge], 2 * old[edge]) for edge, one in learned.items())
    graph = export(after.module, TASK.example())
    qdq = build_qdq(graph, arrays(after.module), after.weights, after.activations)
    assert not qdq.plan.layers
    reasons = sorted(qdq.floats.values())
    assert "2 binary products for each bit of its weight" in reasons[-1] and "not geometric" in reasons[0]


def test_dorefa_computes_in_integers(trained):
    model = apply(Fold(), apply(tuned("dorefa", 4, epochs=2), calibrated(trained)))
    qdq = build_qdq(
        export(model.module, TASK.example()), arrays(model.module), model.weights, model.activations
    )
    assert not qdq.floats and len(qdq.plan.layers) == 3
