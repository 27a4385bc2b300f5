"""Steps that put right, on unlabelled inputs, what compression moved: means by `correct_bias`, statistics of norms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from featherweight.errors import UnsupportedError
from featherweight.events import Note
from featherweight.task import Inputs, Needs, Task, call
from featherweight.task.protocol import failures
from featherweight.techniques.base import Context, Step, Where

if TYPE_CHECKING:
    from torch import Tensor, nn

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

        floats = context.uncoded
        shapes = [{n: t.shape for n, t in network.tensors.items()} for network in (floats or model, model)]
        if floats is None or shapes[0] != shapes[1]:
            raise UnsupportedError(
                "no network to compare with: none of this structure came before anything was encoded",
                where="correct_bias", hint="fold, equalize and the like come before the first step that encodes",
            )  # fmt: skip
        ahead = prefix(floats, task, self.samples, seed=context.seed)
        reasons = {name: obstacle(model, ahead.linear_ops.get(name)) for name in select(model, self.where)}
        changed = {n: t.detach() for n, t in model.tensors.items() if not equal_bits(t, floats.tensors[n])}
        biases: dict[str, Tensor] = {}
        notes = [Note("skipped", name, f"bias not corrected: {why}") for name, why in reasons.items() if why]

        def treat(layer: LinearOp, pairs: Pairs) -> Mapping[str, Tensor]:
            assert layer.bias is not None, "layers without one have an obstacle"
            bias, kept = corrected(layer, pairs, floats, model)
            notes.append(Note("chose", layer.bias, f"{kept} of {len(bias)} channels corrected"))
            biases[layer.bias] = bias
            return {layer.bias: bias}

        layers = [name for name, reason in reasons.items() if not reason]
        layerwise(ahead, layers, treat, changed=changed, events=context.events, name="correct_bias")
        return model.with_tensors(biases, notes)


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
            wide = error.double()
            each.append(wide.movedim(axis, 1).flatten(2).mean(2) if wide.dim() > 2 else wide)
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


class ReestimateBatchnorm(Step, frozen=True, tag="reestimate_batchnorm"):
    """Replace running means and variances by their cumulative average over the first batches of a split.

    Weights that changed (encoded, pruned) change the statistics of what they compute. Meanwhile batch norm
    layers normalise by their batch, and everything else computes as at inference. A norm that no batch reaches keeps
    its statistics, with a note.

    Attributes:
        samples: inputs to see, at least; whole batches are taken.
        split: where they come from.
    """

    needs: ClassVar[Needs] = "unlabelled"
    samples: Annotated[int, Meta(ge=1)] = 1000
    split: Literal["train", "calibration"] = "calibration"

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with new running statistics.

        Raises:
            TaskError: the split has no batches, the network fails on one, or its statistics hold NaN or infinity.
        """
        from featherweight.task.sampling import drawn

        norms = batch_norms(model.module)
        if not norms:
            none = "no layer of the network keeps batch statistics"
            return model.with_notes([Note("skipped", "batch norm", none)])
        batches = drawn(task, self.split, samples=self.samples, seed=context.seed)
        inputs = (task.inputs(batch) for batch in batches)
        statistics, seen = batch_statistics(model, inputs, f"{task.name}, {self.split} split")
        means = {path: f"{path}.running_mean" for path in norms}
        missed = [path for path, mean in means.items() if mean in model.tensors and mean not in statistics]
        notes = [Note("skipped", path, "keeps its statistics: no batch reached it") for path in missed]
        if seen < self.samples:
            few = f"the {self.split} split has only {seen} inputs of the {self.samples} asked for"
            notes.append(Note("chose", "batch norm", few))
        return model.with_tensors(statistics, notes)


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """Return the batch norm layers that keep running statistics, by path."""
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = {path: layer for path, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    return {path: layer for path, layer in norms.items() if layer.running_mean is not None}


def batch_statistics(model: Model, inputs: Iterable[Inputs], where: str) -> tuple[dict[str, Tensor], int]:
    """Return running statistics of the norms that batches of `inputs` reach, and how many inputs were seen."""
    import torch

    from featherweight.model import share
    from featherweight.task.samples import size_of
    from featherweight.task.sampling import check_finite

    buffers = {id(buffer): buffer.detach().clone() for buffer in model.module.buffers()}
    module = share(model.module, buffers)
    layers: dict[str, Any] = batch_norms(module)
    for layer in layers.values():
        layer.train()
        layer.momentum = None  # the cumulative average
        layer.reset_running_stats()
    seen = 0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for number, item in enumerate(inputs):
            at = f"{where}, batch {number} (from 0) of {size_of(item)}, batch norm in training mode"
            with failures(at):
                call(module, item)
            moments = [part for layer in layers.values() for part in (layer.running_mean, layer.running_var)]
            check_finite(moments, "statistics of batch norm", where=where, batch=number, inputs=item)
            seen += size_of(item)
    reached = [(path, layer.named_buffers()) for path, layer in layers.items() if layer.num_batches_tracked]
    measured = {f"{path}.{key}".lstrip("."): value for path, buffers in reached for key, value in buffers}
    return {name: value for name, value in measured.items() if name in model.tensors}, seen
