"""AlexNet in ASTC blocks: what linear layers bear, files by allocation, the large form of 61 million weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import prod

import numpy as np
from msgspec.structs import replace

from featherweight.events import Events
from featherweight.formats import AnyFormat, Astc, Int
from featherweight.formats.astc.tables import Footprint
from featherweight.model import Model
from featherweight.search.sensitivity import Option, Sensitivity
from featherweight.search.sensitivity import measure as sensitivity
from featherweight.task import Task
from featherweight.techniques import Encode, Finetune, Gptq
from featherweight.training.methods import AstcBlocks, Project
from featherweight.workspace import Workspace
from featherweight.zoo.tasks import resolve
from reproduce.astc import allocated, astc, blocks, costs, footprints
from reproduce.plots import front
from reproduce.results import ACCURACY, Cell, Measured, Plot, Row, Sheet
from reproduce.settings import REST, Demand, Outcome, Setting, check, measured, parity, row

ABOUT = (
    "AlexNet (32x32, CIFAR-10) in ASTC blocks: fc6, fc7, fc8, files by allocation, re-training; the poster."
)
REMARKS = [
    ACCURACY,
    "The ratio counts the whole file.",
    "The poster has the AlexNet of 61 million parameters on ImageNet: not like for like.",
    "One baseline; footprints are allocated by sensitivities on validation.",
    "Integers have the same bits in every layer, footprints are allocated: their rows differ in that, too.",
    "A and B train fc7 (72 % of the weights) for one epoch at the same rate; the other weights stay encoded.",
]
EXEMPT = "biases (float16)"
LINEAR = {"classifier.1.weight": "fc6", "classifier.4.weight": "fc7", "classifier.6.weight": "fc8"}
LARGEST = "classifier.4.weight"
TUNE = Finetune(epochs=1, optimizer="adamw", lr=1e-4, warmup=0.1, clip=5.0, precision="bfloat16")
FOOTPRINTS: tuple[Footprint, ...] = ("5x5", "6x6", "8x8", "12x12")
RATIOS = (8, 12, 16, 24)
SAMPLES = 1024  # inputs that error feedback sees
POSTER = {"CIFAR-10": [(6.0, 0.0), (8.7, 0.0), (10.8, -5.0)]}
DEMANDS = (
    Demand("no loss, without re-training", False, 0.1, 8, "poster, ImageNet: 6x"),
    Demand("no loss", True, 0.1, 12, "poster, ImageNet: 8.7x"),
    Demand("under 5 points", True, 5, 16, "poster, ImageNet: 10.8x"),
)
SHAPES = (
    (64, 363), (192, 1600), (384, 1728), (256, 3456), (256, 2304), (4096, 9216), (4096, 4096), (1000, 4096),
)  # fmt: skip


def settings(formats: dict[int, dict[str, AnyFormat]]) -> list[Setting]:
    """Return every setting; `formats` are those of the tensors by ratio."""
    made: list[Setting] = []
    for bits in (4, 3, 2):
        integers = Int(bits=bits, per="channel", scale_by="mse")
        swept = Gptq(format=integers, samples=SAMPLES, coder="smallest")
        made.append(Setting("tuned integers, error feedback", f"{bits} bits", [swept, REST]))
        if bits > 2:
            alone = Encode(format=integers, coder="smallest")
            made.append(Setting("tuned integers", f"{bits} bits", [alone, REST]))
    made.append(Setting("ASTC, encoded", "6x6", [Encode(format=blocks("6x6")), REST]))
    fed = {ratio: Gptq(formats=dict(chosen), samples=SAMPLES) for ratio, chosen in formats.items()}
    made += [Setting("ASTC, error feedback", footprints(formats[r]), [fed[r], REST]) for r in RATIOS]
    for ratio in RATIOS[1:3]:
        format_, name = formats[ratio][LARGEST], footprints(formats[ratio])
        for method in (Project(every=88), AstcBlocks()) if ratio == RATIOS[1] else (AstcBlocks(),):
            tuned = replace(TUNE, where=LARGEST, format=format_, method=method)
            letter = "interleaved (A)" if isinstance(method, Project) else "in blocks (B)"
            made.append(Setting(f"ASTC, {letter}", name, [fed[ratio], tuned, REST]))
    return made


def sensitivities(task: Task, threads: int, events: Events) -> Sensitivity:
    """Return what each tensor does at each footprint."""
    made = [Option(blocks(name)) for name in FOOTPRINTS]
    return sensitivity(
        Model.of(task.model()), Workspace(task, threads=threads, events=events), [*made, Option()]
    )


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure sensitivities, files and the large form; quick: fc8 and a few layers alone."""
    task, seeds = resolve("alexnet-cifar10", events), [0]
    outcomes: list[Outcome] = []
    sheets = [large(SHAPES[:3] if quick else SHAPES)]
    if quick:
        last = Encode(where="classifier.6.weight", format=blocks("6x6"))
        outcomes = measured(
            "AlexNet", task, [Setting("ASTC, encoded", "fc8 6x6", [last])], seeds, threads, events
        )
    else:
        table = sensitivities(task, threads, events)
        sheets.insert(0, linear(table))
        chosen = settings({ratio: allocated(table, ratio) for ratio in RATIOS})
        outcomes = measured("AlexNet", task, chosen, seeds, threads, events)
    checks = [parity(outcomes)]
    if not quick:
        checks += [check("AlexNet", astc(outcomes), demand) for demand in DEMANDS]
    rows = [row(outcome, EXEMPT) for outcome in outcomes]
    return Measured(rows, checks, [*sheets, costs(outcomes)])


def plot(rows: Sequence[Row]) -> Plot:
    """Return accuracy against ratio, with the poster's figures for ImageNet."""
    return front(rows, 6.0, published=POSTER)


def linear(table: Sensitivity) -> Sheet:
    """Return what the linear layers do alone, as the poster draws it."""
    lines: list[list[Cell]] = [
        [LINEAR[cell.tensor], cell.option.format.footprint, cell.nbytes, round(cell.loss, 5)]
        for cell in table.cells
        if cell.tensor in LINEAR and isinstance(cell.option.format, Astc)
    ]
    return Sheet("Each linear layer alone", ["layer", "footprint", "bytes", "loss on validation"], lines)


def large(shapes: tuple[tuple[int, int], ...]) -> Sheet:
    """Return bytes and seconds of the layers of the form for ImageNet at 6x6, of normal numbers."""
    generator = np.random.default_rng(0)
    blocks("6x6").encode(np.ones((6, 6), np.float32)).decode()  # loops are compiled
    taken: list[tuple[int, float, float]] = []
    for shape in shapes:
        weight = generator.normal(size=shape).astype(np.float32)
        start = time.perf_counter()
        encoded = blocks("6x6").encode(weight)
        middle = time.perf_counter()
        encoded.decode()
        taken.append((encoded.nbytes, middle - start, time.perf_counter() - middle))
    count = sum(prod(shape) for shape in shapes)
    whole = tuple(sum(column) for column in zip(*taken, strict=True))
    named = [
        (f"together, {count:,} weights", whole),
        *((f"{rows} x {cols}", cost) for (rows, cols), cost in zip(shapes, taken, strict=True)),
    ]
    lines: list[list[Cell]] = [
        [name, int(nbytes), round(encode, 2), round(decode, 3)] for name, (nbytes, encode, decode) in named
    ]
    return Sheet("The form for ImageNet at 6x6", ["layer", "bytes", "seconds to encode", "to decode"], lines)
