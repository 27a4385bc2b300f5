"""Single weights of ResNet-20 set to zero by several saliencies, nothing trained: accuracy on validation images.

    python -m benchmarks sparsity

The same share of every layer, or 2:4. 1,500 images of the validation split, seed 0. Takes three minutes of one core.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch

from benchmarks.common import head, row, tiny
from featherweight.model import Model
from featherweight.task import Restricted
from featherweight.techniques import Context, ReestimateBatchnorm, Sparsify
from featherweight.techniques.saliencies import Obd, SparseGpt, WoodFisher
from featherweight.zoo.tasks import resolve

IMAGES = 1500
SALIENCIES: dict[str, Any] = {
    "magnitude": "magnitude",
    "obd (256 labelled images)": Obd(samples=256),
    "wood_fisher (256 labelled images)": WoodFisher(),
    "sparsegpt (128 unlabelled images)": SparseGpt(),
}
AMOUNTS: dict[str, dict[str, Any]] = {
    "50 %": {"sparsity": 0.5},
    "2:4": {"pattern": (2, 4)},
    "70 %": {"sparsity": 0.7},
}


def main(quick: bool) -> None:
    task = tiny() if quick else resolve("resnet20-cifar10")
    batches = islice(task.batches("validation", seed=0, epoch=0), -(-IMAGES // task.batch_size))
    images, labels = (torch.cat(part)[:IMAGES] for part in zip(*batches, strict=True))

    def accuracy(model: Model) -> float:
        with torch.inference_mode():
            found = torch.cat([model.module.eval()(part) for part in images.split(250)])
        return float((found.argmax(1) == labels).double().mean())

    def after(model: Model, step: Any) -> Model:
        return step.apply(model, Restricted(task, step.needs), Context())

    whole = Model.of(task.model())
    estimated = accuracy(after(whole, ReestimateBatchnorm()))
    print(f"float: {accuracy(whole):.2%}; batch norm re-estimated: {estimated:.2%}\n")
    head("saliency", *AMOUNTS)
    for name, saliency in SALIENCIES.items():
        pruned = [after(whole, Sparsify(**amount, saliency=saliency)) for amount in AMOUNTS.values()]
        row(name, *(f"{accuracy(model):.2%}" for model in pruned))
        again = [accuracy(after(model, ReestimateBatchnorm())) for model in pruned]
        row("the same, batch norm re-estimated", *(f"{share:.2%}" for share in again))
