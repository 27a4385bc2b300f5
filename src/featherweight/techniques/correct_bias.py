"""The step `correct_bias`: subtracts from each bias what encoding added to the mean of the layer's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from featherweight.errors import UnsupportedError
from featherweight.events import Note
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step, Where

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.curvature.linear_ops import LinearOp, Pairs
    from featherweight.model import Model


class CorrectBias(Step, frozen=True, kw_only=True, omit_defaults=True, tag="correct_bias"):
    """Correct the biases of layers whose weights are encoded, on unlabelled inputs.

    Layer by layer, in order of execution, each with what was corrected before it: on every other input the mean
    difference of each output channel to the network before anything was encoded is measured, and taken off the
    bias. A channel is corrected only if that makes its squared error less on the inputs in between, which the
    correction has not seen: from few inputs a mean can do more harm than good. A bias that is encoded, or that
    is not there (`fold` gives one to layers before a batch norm), stays, with a note.

    References: Nagel, van Baalen, Blankevoort, Welling, Data-free quantization through weight equalization and
    bias correction, 2019, arXiv 1906.04721, section 4.2 (the empirical form).

    Attributes:
        where: weights of the layers; see `featherweight.selectors`.
        samples: inputs of the calibration split to see.
    """

    needs: ClassVar[Needs] = "unlabelled"
    where: Where = "weights"
    samples: Annotated[int, Meta(ge=2)] = 128

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these biases corrected.

        Raises:
            UnsupportedError: there is no network of this structure with nothing encoded to compare with.
        """
        from featherweight.curvature.layerwise import layerwise, prefix
        from featherweight.model import equal_bits
        from featherweight.selectors import select

        floats = reference(model, context)
        ahead = prefix(floats, task, self.samples, seed=context.seed)
        reasons = {name: obstacle(model, ahead.linear_ops.get(name)) for name in select(model, self.where)}
        changed = {
            name: tensor.detach()
            for name, tensor in model.tensors.items()
            if not equal_bits(tensor, floats.tensors[name])
        }
        notes: list[Note] = []

        def treat(layer: LinearOp, pairs: Pairs) -> Mapping[str, Tensor]:
            assert layer.bias is not None, "layers without one have an obstacle"
            bias, kept = corrected(layer, pairs, floats, model)
            notes.append(Note("chose", layer.bias, f"{kept} of {len(bias)} channels corrected"))
            return {layer.bias: bias}

        layers = [name for name, reason in reasons.items() if not reason]
        made = layerwise(ahead, layers, treat, changed=changed, events=context.events, name="correct_bias")
        left = [Note("skipped", name, f"bias not corrected: {why}") for name, why in reasons.items() if why]
        biases = {ahead.linear_ops[name].bias: made[str(ahead.linear_ops[name].bias)] for name in layers}
        return model.with_tensors({str(name): value for name, value in biases.items()}, [*left, *notes])


def reference(model: Model, context: Context) -> Model:
    """Return the network before anything of it was encoded.

    Raises:
        UnsupportedError: it is not known, or has another structure.
    """
    floats = context.uncoded
    shapes = [{n: t.shape for n, t in network.tensors.items()} for network in (floats or model, model)]
    if floats is None or shapes[0] != shapes[1]:
        raise UnsupportedError(
            "no network to compare with: none of this structure came before anything was encoded",
            where="correct_bias", hint="fold, equalize and the like come before the first step that encodes",
        )  # fmt: skip
    return floats


def obstacle(model: Model, layer: LinearOp | None) -> str:
    """Return why the bias of a layer cannot be corrected, or an empty string."""
    if layer is None:
        return "it is not the weight of one convolution or linear layer"
    if layer.bias is None:
        return "the layer has none"
    if layer.bias in model.weights:
        return "it is encoded"
    return "" if layer.weight in model.weights else "the weight is not encoded"


def corrected(layer: LinearOp, pairs: Pairs, floats: Model, model: Model) -> tuple[Tensor, int]:
    """Return the bias `[out]` of a layer, and how many of its channels were corrected.

    With the mean errors `d` on the even and `h` on the odd inputs, a correction by d adds `d^2 - 2 d h` to the
    mean squared error of a channel on the odd ones, whatever its variance.

    Args:
        layer: the layer.
        pairs: its inputs in the float network, and as they are.
        floats: the float network.
        model: the network as it is.

    Raises:
        UnsupportedError: outputs hold NaN or infinity.
    """
    import torch

    weights = [network.tensors[layer.weight].detach() for network in (floats, model)]
    biases = [network.tensors[str(layer.bias)].detach() for network in (floats, model)]
    axis = -1 if layer.op == "linear" else 1
    each = []  # mean error of each input and channel
    with torch.no_grad():
        for before, now in pairs:
            error = layer.output(now, weights[1], biases[1]) - layer.output(before, weights[0], biases[0])
            each.append(
                error.movedim(axis, 1).double().flatten(2).mean(2) if error.dim() > 2 else error.double()
            )
    errors = torch.cat(each)
    if not errors.isfinite().all():
        raise UnsupportedError(
            "its outputs hold NaN or infinity", where=layer.weight,
            got=f"on calibration input {int((~errors.isfinite()).any(1).nonzero()[0])}, from 0",
        )  # fmt: skip
    seen, unseen = errors[::2].mean(0), errors[1::2].mean(0)
    helps = seen.square() < 2 * seen * unseen  # false where there is nothing unseen, and the mean is NaN
    bias = biases[1].double() - torch.where(helps, seen, 0.0)
    return bias.to(biases[1].dtype), int(helps.sum())
