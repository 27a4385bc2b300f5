"""Networks without labelled data at hand: accuracy is how often a file decides as the float network does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featherweight.task import Split, Task, call
from featherweight.task.classification import Classification, logits

SPLITS: tuple[Split, ...] = ("calibration", "validation", "test")
Decided = dict[Split, tuple[Tensor, Tensor]]


def decided(task: Task, splits: Sequence[Split] = SPLITS) -> Decided:
    """Return the inputs of splits, each with what the network of the task decides."""
    network, found = task.model().eval(), {}
    for split in splits:
        inputs = [task.inputs(batch) for batch in task.batches(split, seed=0, epoch=0)]
        with torch.inference_mode():
            decisions = [logits(call(network, some)).argmax(1) for some in inputs]
        found[split] = torch.cat(inputs), torch.cat(decisions).clone()
    return found


def agreement(task: Task) -> tuple[Classification, Decided]:
    """Return the task whose accuracy is how often a network decides as that of `task`, and its data."""
    data = decided(task)
    calibration, validation, test = (data[split] for split in SPLITS)
    made = Classification(
        task.model(), train=calibration, validation=validation, test=test, name=f"{task.name}-agreement",
        dataset=f"agreement, {getattr(task, 'dataset', task.name)}", batch_size=25,
    )  # fmt: skip
    return made, data
