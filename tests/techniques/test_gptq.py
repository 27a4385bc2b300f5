"""The step `gptq`: against the sweep written out, against rounding to nearest, on every format and kind of layer."""

import numpy as np
import pytest
import torch
from tiny import Tiny
from torch import nn

from featherweight.curvature.layerwise import layerwise, prefix
from featherweight.curvature.linear_ops import Moments, moments
from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats import Clustered, Int, Log2, View
from featherweight.model import Model
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Gptq, Sparsify
from featherweight.techniques.gptq import swept

TASK = Tiny(size=48)


class Deep(Tiny):
    """Grouped and depthwise convolutions, a linear layer at the end."""

    def model(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return nn.Sequential(
                nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(),
                nn.Conv2d(8, 12, 1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(192, 4, bias=False),
            ).eval()  # fmt: skip


def applied(step, task=TASK, model=None):
    return step.apply(model or Model.of(task.model()), Restricted(task, step.needs), Context())


def outputs(model, task=TASK):
    images = torch.cat([images for images, _ in task.batches("test", seed=0, epoch=0)])
    with torch.no_grad():
        return model.module(images)


def error(model, task=TASK):
    """Squared error of the network's outputs on other inputs."""
    return float((outputs(model, task) - outputs(Model.of(task.model()), task)).square().mean())


@pytest.mark.parametrize("inputs", ["float", "quantized", "asymmetric"])
def test_outputs_stay_nearer_than_by_rounding(inputs):
    task = Deep(size=96)
    format = Int(bits=3, scale_by="mse")
    rounded = error(applied(Encode(format=format), task), task)
    assert error(applied(Gptq(format=format, inputs=inputs, samples=96), task), task) < 0.7 * rounded


def obs(weight, hessian, scale, most):
    """Optimal brain surgery of one row after the other, on an explicit inverse."""
    made = weight.astype(np.float64).copy()
    for row, step in zip(made, scale.astype(np.float64), strict=True):
        inverse = np.linalg.inv(hessian)
        for j in range(len(row)):
            q = np.clip(np.rint(np.float32(row[j]) / np.float32(step)), -most - 1, most) * step
            row -= (row[j] - q) / inverse[j, j] * inverse[j]
            row[j] = q
            inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
            inverse[j] = inverse[:, j] = 0
    return made


def test_one_layer_is_optimal_brain_surgery():
    step = Gptq(
        where="8.weight", format=Int(bits=3), inputs="quantized", order="given", samples=48, damping=0.1
    )
    after = applied(step)
    module = TASK.model()
    images = torch.cat([images for images, _ in TASK.batches("calibration", seed=0, epoch=0)])
    with torch.no_grad():
        x = module[:8](images).double().numpy()
    hessian = x.T @ x
    hessian += 0.1 * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    expected = obs(module[8].weight.detach().numpy(), hessian, after.weights["8.weight"].parts["scale"], 3)
    np.testing.assert_allclose(after.tensors["8.weight"].detach(), expected, rtol=1e-5, atol=1e-7)


def test_the_target_is_a_ridge_regression_of_float_outputs():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(40, 5)), rng.normal(size=(3, 5))
    before = x + 0.2 * rng.normal(size=x.shape)
    found = Moments((x.T @ x)[None], ((before - x).T @ x)[None])
    shift = 0.1 * np.trace(x.T @ x) / 5
    # argmin_V |W x_before - V x|^2 + shift |V - W|^2, as one least squares problem
    system = np.concatenate([x, np.sqrt(shift) * np.eye(5)])
    wanted = np.concatenate([before @ weight.T, np.sqrt(shift) * weight.T])
    expected = np.linalg.lstsq(system, wanted, rcond=None)[0].T
    np.testing.assert_allclose(found.target(weight, 0.1), expected, atol=1e-10)
    assert Moments((x.T @ x)[None], None).target(weight, 0.1) is weight


def test_drift_is_that_of_the_inputs():
    ahead = prefix(Model.of(TASK.model()), Restricted(TASK, "unlabelled"), 20)
    module, found, kept = TASK.model(), {}, {}

    def treat(layer, pairs):
        kernel = tuple(module.state_dict()[layer.weight].shape[2:])
        found[layer.weight] = moments(layer, pairs, kernel, drift=True)
        kept[layer.weight] = [torch.cat(part).double() for part in zip(*pairs, strict=True)]
        return {layer.weight: 1.2 * module.state_dict()[layer.weight]}

    layerwise(ahead, ["0.weight", "8.weight"], treat)
    assert found["0.weight"].drift is None
    before, now = kept["8.weight"]
    np.testing.assert_allclose(found["8.weight"].hessian[0], now.T @ now, rtol=1e-4)
    np.testing.assert_allclose(found["8.weight"].drift[0], (before - now).T @ now, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format", [Int(bits=3, per=5), Log2(bits=4, per=4), Clustered(bits=3)], ids=str)
def test_every_format_and_zeros_stay(format):
    task = Deep(size=48)
    sparse = applied(Sparsify(sparsity=0.5), task)
    after = applied(Gptq(format=format, coder="smallest", samples=32), task, sparse)
    assert set(after.weights) == {"0.weight", "2.weight", "4.weight", "7.weight"}
    for name, entry in after.weights.items():
        assert entry.format == format
        assert (after.tensors[name][sparse.tensors[name] == 0] == 0).all(), name
    assert error(after, task) < float(outputs(Model.of(task.model()), task).square().mean())


def test_a_layer_whose_hessian_no_memory_holds_is_rounded_to_nearest(monkeypatch):
    monkeypatch.setattr("featherweight.techniques.gptq.WIDEST", 100)
    made = []
    monkeypatch.setattr(
        "featherweight.techniques.gptq.swept", lambda *a, **b: made.append(a) or swept(*a, **b)
    )
    task, format = Deep(size=48), Int(bits=4)
    after = applied(Gptq(format=format), task)
    assert [len(weight) for weight, *_ in made] == [8, 8, 12]  # not the linear layer of 192 inputs
    plain = applied(Encode(where="7.weight", format=format), task)
    assert np.array_equal(after.weights["7.weight"].decode(), plain.weights["7.weight"].decode())
    notes = {note.name: note.reason for note in after.notes}
    assert notes["7.weight"] == "rounded to nearest: the Hessian of 192 inputs takes 0.0 GB"


def test_says_what_was_only_rounded_and_what_stayed():
    first = applied(Encode(where="0.weight", format=Int(bits=4)))
    step = Gptq(where=["weights", "1.weight"], format=Int(bits=4), samples=1000)
    after = applied(step, model=first)
    notes = {note.name: note for note in after.notes}
    assert after.weights["0.weight"] is first.weights["0.weight"] or notes["0.weight"].kind == "skipped"
    assert notes["1.weight"].reason.startswith("rounded to nearest: batch_norm")
    assert notes["calibration"].reason == "only 48 inputs of the 1000 asked for"
    assert set(notes) == {"0.weight", "1.weight", "calibration"}
    again = applied(step, model=after)
    assert all(np.array_equal(again.weights[n].symbols, e.symbols) for n, e in after.weights.items())


def test_some_have_formats_of_their_own():
    step = Gptq(
        format=Int(bits=4),
        formats={"8.weight": Int(bits=6), "type:Conv2d": Clustered(bits=3)},
        where="*.weight",
    )
    found = {name: entry.format for name, entry in applied(step).weights.items()}
    conv = Clustered(bits=3)
    assert found == {"0.weight": conv, "1.weight": Int(bits=4), "4.weight": conv, "8.weight": Int(bits=6)}
    for formats in ({"0.*": Int(), "type:Conv2d": Int()}, {"8.bias": Int()}):
        with pytest.raises(ConfigError, match="selected twice, or not by where"):
            applied(Gptq(formats=formats))


def test_refuses_no_damping_other_types_and_nan():
    with pytest.raises(ConfigError):
        Gptq(damping=0.0)
    broken = TASK.model()
    with torch.no_grad():
        broken[8].weight[0, 0] = torch.nan
    with pytest.raises(UnsupportedError, match=r"8.weight: NaN"):
        applied(Gptq(where="8.weight"), model=Model.of(broken))


GRIDS = [
    Int(bits=8, scale_by="mse"),
    Int(bits=3, per=7),
    Int(bits=4, per="tensor", scheme="affine"),
    Int(bits=2, scheme="affine", per=16),
    Int(bits=16),
]


@pytest.mark.parametrize("format", GRIDS, ids=repr)
@pytest.mark.parametrize(("groups", "rows", "cols"), [(1, 5, 150), (3, 6, 9), (12, 12, 4), (1, 3, 1)])
def test_compiled_loop_rounds_as_columns_encoded_in_turn(monkeypatch, format, groups, rows, cols):
    rng = np.random.default_rng(rows)
    weight = (rng.normal(size=(rows, cols)) * (rng.random((rows, cols)) > 0.2)).astype(np.float32)
    inputs = rng.normal(size=(groups, 3 * cols, cols)) @ rng.normal(size=(cols, cols))
    of = Moments(inputs.transpose(0, 2, 1) @ inputs, None)
    view = View((rows, cols), groups=groups)
    compiled = swept(weight, of, format, view, damping=0.01, order="activation")
    assert (compiled.decode()[weight == 0] == 0).all()
    monkeypatch.setattr(Int, "uniform", lambda *_: None)
    columns = swept(weight, of, format, view, damping=0.01, order="activation")
    assert columns.symbols.tolist() == compiled.symbols.tolist()
    assert columns.symbols.dtype == compiled.symbols.dtype


def test_integers_beyond_16_bits_have_no_uniform_grid_in_float32():
    weight = np.array([[0.3, -0.1]], np.float32)
    encoded = Int(bits=32).encode(weight)
    assert encoded.format.uniform(encoded.parts, encoded.view) is None
