"""What one training loop minimises: its batches, what is computed of each, and the loss of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor
from torch.func import functional_call

from featherweight.capture.memory_format import channels_last, trains_channels_last
from featherweight.model import Model, share
from featherweight.task import Batch, Output, Task, call
from featherweight.task.protocol import Guarded, failures
from featherweight.task.samples import mapped
from featherweight.training.gradients import isolated
from featherweight.training.state import places

Values = dict[str, Tensor]
Loss = Callable[[Output, Batch], Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss as a function of a network's tensors; the loop knows nothing else of what it trains.

    Attributes:
        name: what errors call it.
        batches: of an epoch, given its number.
        forward: what is computed of a batch with these values of all tensors of the network, by canonical name;
            buffers that it moves on (running statistics) it puts into the values.
        loss: scalar of (output, batch).
        seed: of shuffling, augmentation and dropout.
    """

    name: str
    batches: Callable[[int], Iterable[Batch]]
    forward: Callable[[Values, Batch], Output]
    loss: Loss
    seed: int = 0


def of_network(model: Model, task: Task, loss: Loss | None = None, *, seed: int = 0) -> Objective:
    """Return the loss of a whole network, in training mode, on the training split of a task.

    Args:
        model: the network; it stays as it is.
        task: gives the batches, and the loss unless `loss` is given.
        loss: scalar of (output, batch).
        seed: of shuffling, augmentation and dropout.

    Raises:
        TaskError: the network fails on the task's example.
    """
    where = f"{task.name}, network"
    with isolated(), failures(where):
        last = trains_channels_last(model.module, task.example())
    module, (slots, _) = share(model.module).train(), places(model)

    def batches(epoch: int) -> Iterable[Batch]:
        return Guarded(f"{task.name}, train split", task.batches("train", seed=seed, epoch=epoch))

    def forward(values: Values, batch: Batch) -> Output:
        named = {slot: values[name] for slot, name in slots.items()}
        with failures(where):
            inputs = task.inputs(batch)
            output = call(
                lambda *args, **kwargs: functional_call(module, named, args, kwargs, tie_weights=False),
                mapped(channels_last, inputs) if last else inputs,
            )
        # Most networks write into a buffer; some put a new one in its place.
        values.update((name, named[slot]) for slot, name in slots.items())
        return output

    return Objective(task.name, batches, forward, loss or task.loss, seed)
