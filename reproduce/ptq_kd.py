"""Compressed stage by stage, without labels: beside rounding, and beside training the whole network at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from msgspec.structs import replace

from featherweight.data.indexed import permutation
from featherweight.events import Events
from featherweight.formats import Format, Int
from featherweight.task.tasks import Agreement
from featherweight.techniques import AnyStep, Calibrate, Encode, Finetune, Fold, Gptq, Prune, Stages
from featherweight.techniques.saliencies import Taylor
from featherweight.training.losses import Distillation
from featherweight.training.methods import Adaround, Lsq
from featherweight.zoo.tasks import resolve
from reproduce.plots import ranking
from reproduce.results import AGREEMENT, Cell, Check, Measured, Plot, Row, Sheet, mean_spread
from reproduce.roofline import processor
from reproduce.settings import REST, Outcome, Setting, measured, row
from reproduce.tasks import agreement

ABOUT = "Networks of 4 bits, and pruned, taught by themselves block by block, on a few hundred images without labels."
EPOCHS, FEW, SEEDS = 10, 10, (0,)
TRAINED = 240  # images of ImageNet that teach; the others, in five views, are the test
REMARKS = [
    AGREEMENT,
    (
        "Nothing reads a label. All rows of a network see the same images, and those that train see them as often: "
        "each stage in turn, or the whole network at once, which is the same number of products."
    ),
    (
        "4 bits: weights and what layers read; skip connections and sums have 8 bits, as have the first and the last "
        "layer. 80 % of MACs: channels within blocks go, by their Taylor score for the network's own answers."
    ),
    (
        "Largest drop: of the agreement on images held out, from one stage to the next, with later stages as before. "
        "Only what is staged has one."
    ),
    f"EfficientNet-Lite0: {TRAINED} images teach; the test is of 60 others, in five views each (shifted, mirrored).",
    "Rates and prices were chosen on ResNet-20's validation images; EfficientNet-Lite0 took them over. One seed.",
    "A share of 95 % of 10,000 images has a standard error of 0.2 points, one of 85 % of 60 images in five views of 4.",
    "EfficientNet-Lite0 at 4 bits block by block, and as textures, were not run: each takes ten minutes of a core.",
]
FOUR, EIGHT = Int(bits=4, scale_by="mse"), Int(bits=8, scale_by="mse")
EXEMPT = {"W4A4": "first and last layer, sums: 8 bits", "80 %": "all in float32"}
HIDDEN = ["blocks.*.expand.conv.weight", "blocks.*.depthwise.conv.weight"]
LEARNED = Lsq(start="encoded", lr_scale=1.0)


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure everything; quick: one seed, ResNet-20 hardly taught, in two ways."""
    cifar = agreement(resolve("resnet20-cifar10", events), batch_size=100)
    small = ways(("conv1", "linear"), 1 if quick else EPOCHS, 32, 64 if quick else 480)
    seeds = SEEDS[:1] if quick else SEEDS
    made = measured("ResNet-20", cifar, [small[0], small[3]] if quick else small, seeds, threads, events)
    if not quick:
        settings = [*pruned(FEW, 20), *ways(("stem.conv", "fc"), FEW, 20, TRAINED)[:2]]
        made += measured("EfficientNet-Lite0", few_images(events), settings, seeds[:1], threads, events)
    rows = [row(outcome, EXEMPT[outcome.setting.setting[:4]]) for outcome in made]
    sheets = [
        _sheet(made),
        Sheet("The machine", ["what", "it is"], [["processor", processor()], ["threads", str(threads)]]),
    ]
    return Measured(rows, [] if quick else _checks(made), sheets)


def plot(rows: Sequence[Row]) -> Plot:
    """Return the agreement of every method, by network."""
    names = dict.fromkeys((row.network, row.setting) for row in rows)
    return ranking({
        f"{network}, {setting}": {row.method: row for row in rows if (row.network, row.setting) == (network, setting)}
        for network, setting in names
    })  # fmt: skip


def ways(ends: Sequence[str], epochs: int, batch: int, samples: int) -> list[Setting]:
    """Return what is compared at 4 bits, first what trains nothing."""
    last: dict[str, Format] = {f"{end}.weight": EIGHT for end in ends}
    narrow = Calibrate(bits=4, others=8, widths=dict.fromkeys(ends, 8))

    def staged(**options: object) -> list[AnyStep]:
        given = {"format": FOUR, "formats": last, "samples": samples, "batch": batch, "epochs": epochs}
        return [Fold(), narrow, Stages(**(given | options)), REST]  # type: ignore[arg-type]

    whole = Finetune(
        format=FOUR, formats=last, method=LEARNED, epochs=epochs, optimizer="adam", lr=3e-4, weight_decay=0.0,
        schedule="cosine", loss=Distillation(temperature=2.0), precision="float32",
    )  # fmt: skip
    learned, others = {"method": LEARNED, "lr": 3e-4}, ["weights", *(f"!{name}" for name in last)]
    found: dict[str, list[AnyStep]] = {
        "nearest": [Fold(), narrow, Encode(format=EIGHT, where=[*last]), Encode(format=FOUR, where=others), REST],
        "GPTQ": [Fold(), Gptq(format=FOUR, formats=last), narrow, REST],
        "whole network at once": [Fold(), narrow, whole, REST],
        "steps learned, blocks": staged(**learned),
        "AdaRound, blocks": staged(method=Adaround()),
        "AdaRound, layers": staged(method=Adaround(), by="layer"),
    }  # fmt: skip
    return [Setting(name, "W4A4", steps) for name, steps in found.items()]


def pruned(epochs: int, batch: int) -> list[Setting]:
    """Return what is compared with a fifth of the multiply-accumulates gone."""
    cut = Prune(keep=0.8, saliency=Taylor(samples=96), where=HIDDEN, least=8)
    refit = replace(cut, refit=TRAINED)
    tuned = Stages(samples=TRAINED, batch=batch, epochs=epochs, lr=1e-4)
    found = {
        "Taylor": [Fold(), cut],
        "Taylor, refitted": [Fold(), refit],
        "Taylor, refitted, stage by stage": [Fold(), refit, tuned],
    }
    return [Setting(name, "80 % of MACs", steps) for name, steps in found.items()]


def few_images(events: Events) -> Agreement:
    """Return EfficientNet-Lite0 with so many images to teach; the others, in five views, are the test."""
    whole = resolve("efficientnet-lite0-imagenet", events)
    splits = ("train", "validation", "test")
    images = torch.cat([whole.inputs(batch) for s in splits for batch in whole.batches(s, seed=0, epoch=0)])  # type: ignore[arg-type]
    train, test = images[permutation(len(images), 0)].tensor_split([TRAINED])
    views = [test, test.flip(3), *(test.roll((d, d), (2, 3)) for d in (-12, 12)), test.flip(3).roll(8, 3)]
    return Agreement(
        whole.model(), train=train, calibration=train, validation=test, test=torch.cat(views),
        name="efficientnet-lite0-few", dataset="agreement, 300 images", batch_size=20,
    )  # fmt: skip


def _sheet(made: Sequence[Outcome]) -> Sheet:
    rows: list[list[Cell]] = []
    for outcome in made:
        mean, spread = outcome.accuracy
        seconds = mean_spread([sum(stage.seconds for stage in s.stages[1:]) for s in outcome.summaries])[0]
        drops = [
            drop for file in outcome.files if (drop := largest_drop(file.artifact.facts["notes"])) is not None
        ]
        rows.append(
            [
                outcome.network, outcome.setting.setting, outcome.setting.method, f"{mean:.2%}", f"{100 * spread:.2f}",
                str(len(outcome.files)), f"{seconds:.0f}", f"{100 * mean_spread(drops)[0]:.1f}" if drops else None,
                round(outcome.nbytes),
            ]
        )  # fmt: skip
    head = [
        "network",
        "bits",
        "method",
        "agreement",
        "spread",
        "seeds",
        "seconds",
        "largest drop, points",
        "bytes",
    ]
    return Sheet("Taught by themselves", head, rows)


def largest_drop(notes: Sequence[dict[str, str]]) -> float | None:
    """Return the largest drop of agreement from one stage to the next, of what notes of stages say; None: no stages."""
    found = [re.search(r"([\d.]+)% of answers agree", note["reason"]) for note in notes]
    curve = [1.0, *(float(match[1]) / 100 for match in found if match)]
    if len(curve) == 1:
        return None
    return max(before - after for before, after in pairwise(curve))


def _checks(made: Sequence[Outcome]) -> list[Check]:
    reached = {(o.network, o.setting.method): o.accuracy[0] for o in made}
    staged = reached["ResNet-20", "steps learned, blocks"]
    found = [
        Check(
            f"ResNet-20, W4A4: block by block against {name}",
            f"{reached['ResNet-20', name]:.2%} or more",
            f"{staged:.2%}",
            staged >= reached["ResNet-20", name],
        )
        for name in ("whole network at once", "AdaRound, layers", "AdaRound, blocks", "GPTQ")
    ]
    goals = {"Taylor, refitted, stage by stage": 0.85, "GPTQ": 0.80}
    for method, goal in goals.items():
        share = reached["EfficientNet-Lite0", method]
        found.append(
            Check(f"EfficientNet-Lite0, {method}", f"{goal:.0%} or more", f"{share:.2%}", share >= goal)
        )
    return found
