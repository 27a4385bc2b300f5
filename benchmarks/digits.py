"""A ResNet of 0.70 M parameters on scikit-learn's digits: our files beside those of other tools, in one run.

    python -m benchmarks digits [--quick] [-o DIR]

For each seed: train in float; prune in rounds; after each round share values, tune them, write the file and
load it again. The setting is chosen by validation images alone. The same float networks go to the rivals.
Takes about four minutes of one core; NNCF takes part if it is installed (`pip install -e '.[bench]'`).
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import torch

from benchmarks.rivals import Rival, Trained, rivals
from featherweight.data.digits import load, split
from featherweight.data.indexed import Indexed
from featherweight.delivery.summary import Summary
from featherweight.files import write_whole
from featherweight.formats import Clustered, Float
from featherweight.formats.coders import Cabac
from featherweight.recipe import Recipe, Store, run
from featherweight.report.tables import Table
from featherweight.search import compress
from featherweight.techniques import AnyStep, Encode, Finetune, Fold, Sparsify, Train
from featherweight.training.methods import Centroids
from featherweight.workspace import versions
from featherweight.zoo.tasks import resolve

SPARSITIES = (0.8, 0.92, 0.95, 0.97)
GOAL = 40.0
PACKAGES = ("onnxruntime", "nncf", "openvino")


class Line(msgspec.Struct, frozen=True):
    """One kind of file, over the seeds.

    Attributes:
        tool: what made it, and how.
        file: what kind of file it is.
        nbytes: bytes of the whole file, by seed.
        correct: test images labelled correctly by the reloaded file, by seed.
        seconds: from the trained network to the file, by seed.
        exempt: what was not compressed.
        validation: validation images labelled correctly, by seed; only of our settings.
    """

    tool: str
    file: str
    nbytes: list[int]
    correct: list[int]
    seconds: list[float]
    exempt: str
    validation: list[int] = []


class Digits(msgspec.Struct, frozen=True):
    """`results.json`; `chosen` is a place in `ours`."""

    command: str
    environment: dict[str, str]
    parameters: int
    images: dict[str, int]
    seeds: list[int]
    correct: list[int]
    validation: list[int]
    chosen: int
    ours: list[Line]
    rivals: list[Line]


def recipes(quick: bool) -> Iterator[tuple[str, Recipe]]:
    """Yield every setting: pruned to one sparsity more, then 16 values a tensor; vectors are float16."""
    steps: list[AnyStep] = [Train(epochs=2) if quick else Train()]
    for sparsity in SPARSITIES:
        steps.append(Sparsify(sparsity=sparsity, scope="lamp"))
        steps.append(Finetune(epochs=1 if quick else 8, lr=1e-3, keep_zeros=True))
        shared = Finetune(
            format=Clustered(bits=4),
            method=Centroids(lr_scale=1.0),
            coder=Cabac(),
            epochs=1 if quick else 4,
            lr=5e-4,
            keep_zeros=True,
        )
        halves = Encode(where=["parameters", "!weights"], format=Float(kind="float16"))
        if sparsity != SPARSITIES[0]:
            yield (
                f"featherweight, {sparsity:.0%} zeros, clustered 4 bits, cabac",
                Recipe([*steps, Fold(), shared, halves]),
            )


def choose(ours: Sequence[Line], float_bytes: int) -> int:
    """Return the setting of at least 40x with most validation images correct; of equals, the smaller files."""
    small = [i for i, line in enumerate(ours) if float_bytes / statistics.fmean(line.nbytes) >= GOAL]
    if not small:
        raise SystemExit(f"no setting reaches {GOAL:.0f}x")
    return max(small, key=lambda i: (sum(ours[i].validation), -sum(ours[i].nbytes)))


def measure_ours(
    task: Any, seeds: Sequence[int], store: Store, quick: bool
) -> tuple[list[Line], list[Summary]]:
    """Return every setting over the seeds, and the summaries of the last one, for what all have in common."""
    lines: list[Line] = []
    found: list[Summary] = []
    for tool, recipe in recipes(quick):
        found = [compress(task, recipe, seed=seed, threads=1, store=store).summary for seed in seeds]
        lines.append(
            Line(
                tool=tool,
                file=".fw, run by ONNX Runtime",
                nbytes=[s.file_bytes for s in found],
                correct=[right("test", s.test) for s in found],
                seconds=[sum(stage.seconds for stage in s.stages[1:]) for s in found],
                exempt="none; biases are float16",
                validation=[right("validation", s.validation) for s in found],
            )
        )
        print(f"{tool}: {lines[-1].nbytes} B, {lines[-1].validation} on validation", flush=True)
    return lines, found


def right(split: str, metrics: dict[str, float]) -> int:
    """Return how many images of a split are labelled correctly."""
    return round(len(parts()[split]) * metrics["accuracy"])


def measure_rivals(task: Any, seeds: Sequence[int], store: Store, quick: bool) -> list[Line]:
    """Return every file of every other tool, made of the same trained networks."""
    (_, recipe), everything = next(recipes(quick)), {k: batch(images) for k, images in parts().items()}
    rows: dict[tuple[str, str], list[Rival]] = {}
    for seed in seeds:
        network = run(Recipe(recipe.steps[:1]), task, seed=seed, threads=1, store=store)[-1].model.module
        trained = Trained(network.eval(), everything["train"][0], *everything["test"])
        with tempfile.TemporaryDirectory() as folder:
            for rival in rivals(trained, Path(folder)):
                rows.setdefault((rival.tool, rival.file), []).append(rival)
    return [
        Line(
            tool,
            file,
            nbytes=[r.nbytes for r in found],
            correct=[r.correct for r in found],
            seconds=[r.seconds for r in found],
            exempt=found[0].exempt,
        )
        for (tool, file), found in rows.items()
    ]


@cache
def parts() -> dict[str, Indexed]:
    """Return the images by split."""
    return dict(zip(("train", "validation", "test"), split(load()), strict=True))


def batch(images: Indexed) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all images of a split and their labels."""
    return images.take(np.arange(len(images)))


def environment() -> dict[str, str]:
    """Return the versions that decide the figures; of a package that is not there, `not installed`."""
    found = {**versions(), "python": platform.python_version(), "threads": "1"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def table(results: Digits) -> list[str]:
    """Return the lines of the table, the chosen setting first."""
    chosen = results.ours[results.chosen]
    others = [line for line in results.ours if line is not chosen]
    head = ["tool", "file", "bytes", "ratio", "correct of 500", "against float", "seconds", "exempt"]
    return Table("", head, [row(line, results) for line in (chosen, *results.rivals, *others)]).markdown()


def row(line: Line, results: Digits) -> list[str]:
    change = [c - base for c, base in zip(line.correct, results.correct, strict=True)]
    mean = statistics.fmean(line.nbytes)
    return [
        f"**{line.tool}**" if line is results.ours[results.chosen] else line.tool,
        line.file,
        f"{mean:,.0f}",
        f"{4 * results.parameters / mean:.1f}x",
        ", ".join(map(str, line.correct)),
        f"{statistics.fmean(change):+.1f} ({', '.join(f'{c:+d}' for c in change)})",
        f"{statistics.fmean(line.seconds):.1f}",
        line.exempt,
    ]


def page(results: Digits) -> str:
    """Return the page of the results."""
    chosen, images, lines = results.ours[results.chosen], results.images, "\n".join(table(results))
    seeds, right, of_float, of_chosen = (
        ", ".join(map(str, numbers))
        for numbers in (results.seeds, results.correct, results.validation, chosen.validation)
    )
    gained = sum(chosen.validation) - sum(results.validation)
    return f"""# digits

ResNet-18 of width 16, {results.parameters:,} parameters, on scikit-learn's digits, 8 x 8 pixels: {images["train"]:,}
images for training, {images["validation"]} for validation and {images["test"]} for test, always the same ones.
Seeds {seeds}.

    {results.command}

{lines}

- Bytes are of whole files, averaged over the seeds; the ratio is 4 bytes per parameter over that.
- Accuracy is counted in correct test images, for each seed; one image is 0.2 points. The float networks have
  {right} of {images["test"]} correct. A difference of one or two images may be chance.
- The setting in bold was chosen among ours by validation images: of those of {GOAL:.0f}x and more, the one with
  most of them correct, {of_chosen} of {images["validation"]} (float: {of_float}; {gained:+d} images over all seeds).
  Settings that were not chosen come last.
- Ours is trained further after pruning, on the training images; the others are post-training, with their defaults:
  what each offers in one call, not the best that could be made with it.
- The network suits images of this size: its last stage still sees 2 x 2 pixels.
- Seconds are wall-clock time from the trained network to the file, on one thread of a machine with other work.
- {", ".join(f"{name} {of}" for name, of in results.environment.items())}.
"""


def main(quick: bool, out: Path | None = None) -> None:
    onnxruntime.set_default_logger_severity(3)  # its quantizer warns of what it does not fold
    task, store, seeds = resolve("resnet-digits"), Store(), [0] if quick else [0, 1, 2]
    ours, found = measure_ours(task, seeds, store, quick)
    others = measure_rivals(task, seeds, store, quick)
    results = Digits(
        command=f"python -m benchmarks digits{' --quick' * quick} -o docs/results/digits",
        environment=environment(),
        parameters=found[0].parameters,
        images={name: len(images) for name, images in parts().items()},
        seeds=seeds,
        correct=[right("test", s.baseline["test"]) for s in found],
        validation=[right("validation", s.baseline["validation"]) for s in found],
        chosen=choose(ours, found[0].float_bytes),
        ours=ours,
        rivals=others,
    )
    print("\n".join(table(results)))
    if out:
        write_whole(out / "results.json", msgspec.json.format(msgspec.json.encode(results), indent=1))
        write_whole(out / "README.md", page(results))
