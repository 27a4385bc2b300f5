"""The step `reestimate_batchnorm`: running statistics of batch norm, measured again on unlabelled inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from featherweight.events import Note
from featherweight.task import Inputs, Needs, Task, call
from featherweight.task.protocol import failures
from featherweight.techniques.base import Context, Step

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featherweight.model import Model


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
        notes = [
            Note("skipped", path, "keeps its statistics: no batch reached it")
            for path in norms
            if f"{path}.running_mean" in model.tensors and f"{path}.running_mean" not in statistics
        ]
        if seen < self.samples:
            few = f"the {self.split} split has only {seen} inputs of the {self.samples} asked for"
            notes.append(Note("chose", "batch norm", few))
        return model.with_tensors(statistics, notes)


def batch_norms(module: nn.Module) -> dict[str, nn.Module]:
    """Return the batch norm layers that keep running statistics, by path."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def batch_statistics(model: Model, inputs: Iterable[Inputs], where: str) -> tuple[dict[str, Tensor], int]:
    """Return running statistics of the norms that batches reach, and how many inputs were seen.

    Args:
        model: the network.
        inputs: batch by batch.
        where: name of the task and the split.
    """
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
    measured = {
        f"{path}.{key}" if path else key: value
        for path, layer in layers.items()
        if layer.num_batches_tracked
        for key, value in layer.named_buffers()
    }
    return {name: value for name, value in measured.items() if name in model.tensors}, seen
