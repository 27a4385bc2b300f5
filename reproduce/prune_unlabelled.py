"""Pruning without labels: EfficientNet-Lite0 taught by itself on a few hundred images."""

from __future__ import annotations

from itertools import pairwise

import torch

from featherweight.events import Events
from featherweight.packing import unpack
from featherweight.recipe import Recipe
from featherweight.report.plot import new_figure, svg
from featherweight.search import Compressed, compress
from featherweight.task import Task
from featherweight.task.classification import Classification
from featherweight.techniques import AnyStep, Finetune, Prune
from featherweight.techniques.saliencies import Magnitude, Saliency, SospH, SospI, Taylor
from featherweight.training.distillation import Distillation
from featherweight.zoo.tasks import resolve
from reproduce.results import Check, Measured, Plot, Row, Sheet, row_of
from reproduce.sosp import spent

ABOUT = "A fifth of the multiply-accumulates of EfficientNet-Lite0 pruned with images that have no labels."
KEEP = 0.8
TRAINED, HELD = 160, 40  # images to teach with, and to choose settings by; the others are the test
SALIENCIES: dict[str, Saliency] = {
    "SOSP-H": SospH(samples=96),
    "SOSP-I": SospI(samples=96, draws=4),
    "Taylor": Taylor(samples=96),
    "L2": Magnitude(),
}
TAUGHT = Finetune(
    optimizer="adam", lr=1e-4, weight_decay=0.0, epochs=4, distill=Distillation(weight=1, temperature=2)
)


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every saliency, with and without teaching; quick: one, hardly taught."""
    task = own_answers(resolve("efficientnet-lite0-imagenet", events))
    made: dict[str, Compressed] = {}
    for name, saliency in list(SALIENCIES.items())[: 1 if quick else None]:
        prune = Prune(keep=KEEP, saliency=saliency, least=8)
        taught = Finetune(epochs=1, lr=1e-4, distill=TAUGHT.distill) if quick else TAUGHT
        ways: dict[str, list[AnyStep]] = {"pruned": [prune], "pruned and taught": [prune, taught]}
        for way, steps in ways.items():
            made[f"{name}, {way}"] = compress(task, Recipe(steps), seed=0, threads=threads, events=events)
    rows = [_row(task.dataset, name, found) for name, found in made.items()]
    checks = [] if quick else _checks(made)
    return Measured(rows, checks, [_plot(rows)], _remarks(quick), [_sheet(task, made)])


def own_answers(task: Task) -> Classification:
    """Return a task of the same images whose labels are the float network's answers: its accuracy is agreement."""
    network = task.model().eval()
    found = [
        task.inputs(batch)
        for split in ("train", "validation", "test")
        for batch in task.batches(split, seed=0, epoch=0)
    ]
    with torch.inference_mode():
        answers = torch.cat([network(part).argmax(1) for part in found])
    images, labels = torch.cat(found), answers.clone()
    ends = (0, TRAINED, TRAINED + HELD, len(images))
    pairs = [(images[a:b], labels[a:b]) for a, b in pairwise(ends)]
    return Classification(
        network,
        train=pairs[0],
        calibration=pairs[0],
        validation=pairs[1],
        test=pairs[2],
        name=task.name,
        dataset=f"{len(images)} images, unlabelled",
        batch_size=32,
    )


def _row(data: str, name: str, found: Compressed) -> Row:
    return row_of(
        [found.summary],
        network="EfficientNet-Lite0",
        data=data,
        method=name,
        setting=f"{100 * KEEP:g} % of MACs",
        exempt="nothing is encoded (float32)",
    )


def _sheet(task: Classification, made: dict[str, Compressed]) -> Sheet:
    whole = spent(task.model(), task.example())
    rows: list[list[int | float | str | None]] = []
    for name, found in made.items():
        left = spent(unpack(found.artifact, task).module, task.example())
        summary = found.summary
        rows.append(
            [
                name,
                *(f"{100 * a / b:.1f} %" for a, b in zip(left, whole, strict=True)),
                f"{100 * summary.validation[summary.primary]:.1f} %",
                f"{100 * summary.test[summary.primary]:.1f} %",
            ]
        )
    return Sheet(
        "Agreement with the float network", ["method", "MACs", "parameters", "validation", "test"], rows
    )


def _checks(made: dict[str, Compressed]) -> list[Check]:
    agreement = {name: found.summary.test[found.summary.primary] for name, found in made.items()}
    own = max(agreement[f"{name}, pruned and taught"] for name in ("SOSP-H", "SOSP-I"))
    return [
        Check(
            f"the better SOSP against {name}, taught",
            f"{100 * agreement[f'{name}, pruned and taught']:.1f} % or more",
            f"{100 * own:.1f} %",
            own >= agreement[f"{name}, pruned and taught"],
        )
        for name in ("Taylor", "L2")
    ]


def _remarks(quick: bool) -> list[str]:
    return [
        "Accuracy is agreement: the share of held-out images on which the reloaded file answers as the float network.",
        f"{TRAINED} images teach (distillation alone), {HELD} choose settings, the others are the test, used once.",
        "Saliencies are of the cross-entropy to the network's own answers: distillation itself has no gradient there.",
        "No label of any image is used; how well the float network does on them is not known.",
        *(["Quick form: its figures are not results."] if quick else []),
    ]


def _plot(rows: list[Row]) -> Plot:
    figure = new_figure(5.5, 2.6)
    ax = figure.subplots()
    ax.barh([row.method for row in rows], [100 * row.accuracy for row in rows], color="#4d7ea8")
    ax.invert_yaxis()
    ax.set_xlabel("decides as the float network, % of images")
    return Plot("prune-unlabelled.svg", svg(figure))
