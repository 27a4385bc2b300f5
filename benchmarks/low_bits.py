"""EfficientNet-Lite0 at four bits without training: share of images with the same top-1 as the float model.

    python -m benchmarks low_bits [--quick]

Weights only. Batch norms are folded; the weights of 1x1 convolutions and of the linear layer get four bits, or four on
average, those of depthwise convolutions and of the stem eight. 100 unlabelled images calibrate, 50 others choose (bits
of each layer; which row is best), and the remaining 150 are looked at once. Images: the folder `imagenet` of the cache,
named by class index. One thread.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.common import head, row, timed, tiny
from featherweight import Classification, Int, Option
from featherweight.artifact import dumps
from featherweight.data.folder import ImageFiles, numbered_files
from featherweight.data.indexed import Subset, permutation
from featherweight.files import cache_dir
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.search import allocate, measure
from featherweight.search.allocation import damages
from featherweight.task import Restricted
from featherweight.techniques import Context, CorrectBias, Encode, Fold, Gptq, Step
from featherweight.workspace import Workspace
from featherweight.zoo.efficientnet_lite import NORMALISATION, pretrained

CONVOLUTIONS = ["*.expand.conv.weight", "*.project.conv.weight", "head.conv.weight"]
POINTWISE = [*CONVOLUTIONS, "fc.weight"]
OTHERS = ["stem.conv.weight", "*.depthwise.conv.weight"]
BITS = 4
SPLIT = 5000  # the permutation that divides the images, as in the zoo
AT_ONCE = 10


def task_of() -> Classification:
    """Return the network with 100 images to calibrate, 50 to choose and 150 to test."""
    files = ImageFiles(*numbered_files(cache_dir() / "imagenet"), size=224, normalise=NORMALISATION)
    order = permutation(len(files), SPLIT)
    calibration, validation, test = np.split(order, [100, 150, 300])[:3]
    parts = [Subset(files, np.sort(part)) for part in (calibration, validation, test)]
    return Classification(
        pretrained, train=parts[0], calibration=parts[0], validation=parts[1], test=parts[2],
        name="efficientnet-lite0", batch_size=AT_ONCE,
    )  # fmt: skip


def mse(bits: int) -> Int:
    """Return the format of one scale a channel, of least squared error."""
    return Int(bits=bits, scale_by="mse")


def mixed(model: Model, task: Classification, quick: bool) -> dict[str, Int]:
    """Return formats of `BITS` bits a weight on average: least damage, predicted by the Fisher matrix.

    The linear layer keeps `BITS`: 100 images give it 100 inputs for 1,280 columns, too few for GPTQ at less.
    """
    options = [Option(mse(bits)) for bits in ((3, 4, 8) if quick else (3, 4, 5, 6, 8))]
    table = measure(model, Workspace(task, threads=1), options, by="fisher", where=CONVOLUTIONS)
    rows = table.rows
    counts = [model.tensors[row[0].tensor].numel() for row in rows]
    sizes = [[n * cell.option.format.bits for cell in row] for n, row in zip(counts, rows, strict=True)]
    chosen = allocate([damages(row) for row in rows], sizes, BITS * sum(counts))
    return {row[i].tensor: row[i].option.format for row, i in zip(rows, chosen, strict=True)}


def applied(model: Model, steps: Sequence[Step], task: Classification) -> Model:
    """Return the model after some steps, each of which sees what it declared to need."""
    context = Context(uncoded=model)
    for step in steps:
        model = step.apply(model, Restricted(task, step.needs), context)
    return model


def outputs(model: Model, images: torch.Tensor) -> torch.Tensor:
    """Return the logarithms of the probabilities of each class."""
    with torch.inference_mode():
        return torch.cat([model.module(part) for part in images.split(4)]).log_softmax(1)


def compared(model: Model, images: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Return the share of images with the same class as in float, and the mean divergence (KL) from float."""
    got = outputs(model, images)
    same = (got.argmax(1) == expected.argmax(1)).float().mean()
    return float(same), float((expected.exp() * (expected - got)).sum(1).mean())


def bits_of(model: Model, names: Sequence[str]) -> float:
    """Return the mean bits of the weights `names`, scales aside."""
    entries = [model.weights[name] for name in names]
    return sum(e.format.bits * e.view.size for e in entries) / sum(e.view.size for e in entries)


def main(quick: bool) -> None:
    task = tiny() if quick else task_of()
    model = Fold().apply(Model.of(task.model()), task, Context())
    images = {
        split: torch.cat([x for x, _ in task.batches(split, seed=0, epoch=0)])
        for split in ("validation", "test")
    }
    expected = {split: outputs(model, x) for split, x in images.items()}
    formats, seconds = timed(partial(mixed, model, task, quick))
    print("bits:", ", ".join(f"{name.removesuffix('.weight')} {f.bits}" for name, f in formats.items()))
    print(f"chosen in {seconds:.0f} s\n")
    seen = 4 if quick else 100
    four = Gptq(where=POINTWISE, format=mse(BITS), samples=seen)
    mixing = Gptq(where=POINTWISE, format=mse(BITS), formats=formats, samples=seen)
    plain = Gptq(where=POINTWISE, format=mse(BITS), samples=seen, inputs="quantized", order="given")
    eight, biases = Encode(where=OTHERS, format=mse(8)), CorrectBias(samples=seen)
    rows = {
        "round to nearest": [Encode(where=POINTWISE, format=Int(bits=BITS)), eight],
        "GPTQ": [plain, eight],
        "GPTQ towards float outputs": [four, eight],
        "and bias correction": [four, eight, biases],
        "GPTQ towards float outputs, mixed bits": [mixing, eight],
    }
    found = [name for split in images for name in (f"same top-1, {split}", "KL")]
    head("weights", "bits, 1x1 and linear", "bits, all", *found, "MB", "s")
    names = [n for n, t in model.tensors.items() if t.dim() >= 2]
    pointwise = [n for n in names if n in formats or n == "fc.weight"]
    for name, steps in rows.items():
        made, seconds = timed(partial(applied, model, steps, task))
        found = [compared(made, images[split], expected[split]) for split in images]
        figures = " | ".join(f"{same:.1%} | {divergence:.4f}" for same, divergence in found)
        bits = f"{bits_of(made, pointwise):.2f} | {bits_of(made, names):.2f}"
        size = len(dumps(pack(made))) / 1e6
        row(name, bits, figures, f"{size:.2f}", f"{seconds:.0f}")
