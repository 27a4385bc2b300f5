"""What a ReLU takes away of the error of quantized weights: measured before and after it, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featherweight.formats import Int, View
from featherweight.model import Model
from featherweight.search import Compressed
from featherweight.task import Task, call
from featherweight.techniques import Context, Fold


@dataclass(frozen=True)
class Wiped:
    """One layer that a ReLU follows.

    Attributes:
        layer: its path.
        negative: share of its outputs below zero.
        before: squared error of its outputs over their energy.
        after: the same behind the ReLU, over the same energy.
    """

    layer: str
    negative: float
    before: float
    after: float

    @property
    def share(self) -> float:
        """The share of the squared error that is gone behind the ReLU."""
        return 1 - self.after / self.before if self.before else 0.0


def wiped(task: Task, plain: Compressed, *, bits: int = 4) -> list[Wiped]:
    """Return, of every convolution and linear layer, what a ReLU behind it takes away of the error of its weights.

    Batch norms are folded before. Each layer alone is rounded to `bits` bits, a scale a channel; its inputs are
    those of the float network.

    Args:
        task: gives one batch of validation.
        plain: the float network, compressed by nothing.
        bits: width of the rounded weights.
    """
    module = Fold().apply(Model.of(plain.artifact.into(task.model())), task, Context()).module
    inputs: dict[str, Tensor] = {}
    layers = {
        name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        for name, layer in layers.items()
    ]
    with torch.inference_mode():
        call(module, task.inputs(next(iter(task.batches("validation", seed=0, epoch=0)))))
        found = [_one(name, layer, inputs[name], bits) for name, layer in layers.items() if name in inputs]
    for hook in hooks:
        hook.remove()
    return found[:-1]  # no ReLU behind the last


def _one(name: str, layer: nn.Module, given: Tensor, bits: int) -> Wiped:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    format_ = Int(bits=bits, per="channel", scale_by="mse")
    rounded = torch.from_numpy(
        format_.encode(weight.detach().numpy(), view=View.of(tuple(weight.shape))).decode()
    )
    exact = layer(given)
    off = torch.func.functional_call(layer, {"weight": rounded}, (given,))
    energy = float(exact.square().sum())
    before = float((off - exact).square().sum()) / energy
    after = float((off.relu() - exact.relu()).square().sum()) / energy
    return Wiped(name, float((exact < 0).float().mean()), before, after)
