"""Error feedback across blocks: the sweep with blocks of columns keeps a layer's outputs, not its weights."""

import numpy as np
import pytest
from tiny import Tiny

from featherweight.curvature.linear_ops import Moments
from featherweight.formats import Astc, View
from featherweight.model import Model
from featherweight.task import Restricted
from featherweight.techniques import Context, Gptq
from featherweight.techniques.gptq import swept


def layer(rows, cols):
    """A weight, and the Hessian of inputs of which few directions are great, as in networks."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, cols // 6)) @ rng.normal(size=(cols // 6, cols))
    inputs += 0.3 * rng.normal(size=inputs.shape)
    return (rng.normal(size=(rows, cols)) * 0.05).astype(np.float32), inputs.T @ inputs


def output_error(weight, made, hessian):
    difference = (made - weight).astype(np.float64)
    return np.einsum("ij,jk,ik->", difference, hessian, difference)


@pytest.mark.parametrize("order", ["given", "activation"])
@pytest.mark.parametrize("format", [Astc("6x6", per="tensor"), Astc("8x5"), Astc("4x4", channels=4)], ids=str)
def test_outputs_are_nearer_than_by_encoding_alone(format, order):
    weight, hessian = layer(24, 100)
    view = View.of(weight.shape)
    found = swept(weight, Moments(hessian[None], None), format, view, damping=0.01, order=order)
    assert found.symbols.size == format.encode(weight).symbols.size
    plain = output_error(weight, format.encode(weight).decode(), hessian)
    assert output_error(weight, found.decode(), hessian) < 0.5 * plain


def test_the_step_ends_in_blocks():
    task, format = Tiny(size=48), Astc("5x5", per="tensor")
    step = Gptq(format=format, samples=32)
    model = step.apply(Model.of(task.model()), Restricted(task, step.needs), Context())
    assert {entry.format for entry in model.weights.values()} == {format}
    for name, entry in model.weights.items():
        np.testing.assert_array_equal(model.tensors[name].detach().numpy(), entry.decode())
