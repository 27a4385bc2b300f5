"""Prune, retrain, share weights, tune the shared values, code what is left: a case, its recipes, its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from msgspec.structs import replace

from featherweight.events import Events
from featherweight.formats import AnyFormat, Clustered, Float, Int
from featherweight.formats.coders import Cabac, Coder, Gaps, Huffman
from featherweight.recipe import Recipe
from featherweight.report.plot import logarithmic, new_figure, svg
from featherweight.reproduce.results import Check, Paper, Plot, Row, Sheet, mean_spread
from featherweight.search import compress
from featherweight.search.paired import pooled
from featherweight.search.summary import Summary
from featherweight.techniques import AnyStep, Encode, Finetune, Sparsify, Train
from featherweight.training.distillation import Distillation
from featherweight.training.methods import AnyMethod, Centroids, StraightThrough
from featherweight.zoo.tasks import resolve

HUFFMAN = Gaps(bits=5, values=Huffman(), gaps=Huffman())
REST = Encode(where=["*", "!weights"], format=Float("float16"))
EXEMPT = "biases and batch norm (float16)"
PLAIN = "float16"
FEWEST = "both, fewer bits"
SETTINGS = ("quantize", "prune", "both, Huffman", "both, CABAC", FEWEST)


@dataclass(frozen=True)
class Case:
    """A network, how it is pruned, and what is asked of the result.

    Attributes:
        network: its name in the table.
        task: its task.
        seeds: of training and of everything after it.
        most_drop: points of accuracy that may be lost.
        goal: ratio that is sought.
        sparsities: what is zero after each round of pruning, all layers together (LAMP).
        epochs: of each round but the last, of the last, and of tuning in a format.
        rounds: how the rounds train.
        tuning: how the format is tuned.
        fewest: format of the smallest file, and how it is trained.
        settings: which settings are measured.
        paper: the published figure.
    """

    network: str
    task: str
    seeds: tuple[int, ...]
    most_drop: float
    goal: float
    sparsities: tuple[float, ...]
    epochs: tuple[int, int, int]
    rounds: Finetune
    tuning: Finetune
    fewest: tuple[AnyFormat, AnyMethod]
    settings: tuple[str, ...]
    paper: Paper | None = None


TAUGHT = Finetune(lr=2e-3, warmup=0.1, keep_zeros=True, distill=Distillation())
DESCENT = Finetune(
    optimizer="nesterov", lr=0.02, weight_decay=5e-4, warmup=0.1, precision="bfloat16", keep_zeros=True,
    distill=Distillation(),
)  # fmt: skip
SHARED = (Clustered(bits=3), Centroids(lr_scale=1))


def integers(bits: int) -> tuple[AnyFormat, AnyMethod]:
    """Return integers with one scale for a tensor, trained straight through."""
    return Int(bits=bits, per="tensor", scale_by="mse"), StraightThrough()


@dataclass(frozen=True)
class Outcome:
    """One setting of a case: what each seed came to, on which data."""

    case: Case
    setting: str
    data: str
    summaries: Sequence[Summary]


def outcomes(cases: Sequence[Case], quick: bool, threads: int, events: Events) -> list[Outcome]:
    """Return what every case and setting came to; quick: one epoch of training before."""
    found = []
    for case in cases:
        task = resolve(case.task, events)
        trains = getattr(task, "training", None) is not None
        train = Train(epochs=1) if quick else Train() if trains else None
        for setting in case.settings:
            steps = recipe(case, setting, train=train)
            summaries = [
                compress(task, steps, seed=seed, threads=threads, events=events).summary
                for seed in case.seeds
            ]
            found.append(Outcome(case, setting, getattr(task, "dataset", task.name), summaries))
    return found


def recipe(case: Case, setting: str, *, train: Train | None) -> Recipe:
    """Return the steps of a setting; `train` is None for a network that comes trained."""
    before: list[AnyStep] = [train] if train else []
    if setting == PLAIN:
        return Recipe([*before, Encode(where="*", format=Float("float16"))])
    if setting == "quantize":
        return Recipe([*before, *_tuned(case, Clustered(bits=4), Centroids(lr_scale=1), Huffman())])
    before += pruning(case)
    if setting == "prune":
        return Recipe([*before, Encode(format=Float("float16"), coder=Gaps(bits=5)), REST])
    if setting == FEWEST:
        return Recipe([*before, *_tuned(case, *case.fewest, Cabac())])
    shared = _tuned(case, Clustered(bits=5), Centroids(lr_scale=1), HUFFMAN)
    if setting == "both, CABAC":
        shared.append(Encode(format=Clustered(bits=5), coder=Cabac()))
    return Recipe([*before, *shared])


def pruning(case: Case) -> list[AnyStep]:
    """Return the rounds: each sets more weights to zero, and trains what is left."""
    each, last, _ = case.epochs
    steps: list[AnyStep] = []
    for sparsity in case.sparsities:
        epochs = last if sparsity == case.sparsities[-1] else each
        steps += [Sparsify(sparsity=sparsity, scope="lamp"), replace(case.rounds, epochs=epochs)]
    return steps


def _tuned(case: Case, format_: AnyFormat, method: AnyMethod, coder: Coder) -> list[AnyStep]:
    return [replace(case.tuning, format=format_, method=method, coder=coder, epochs=case.epochs[2]), REST]


def hurried(case: Case) -> Case:
    """Return the same in little time, for tests."""
    return dataclasses.replace(case, seeds=case.seeds[:1], sparsities=case.sparsities[-1:], epochs=(1, 1, 1))


def row(outcome: Outcome) -> Row:
    """Return the line of one setting, over its seeds."""
    case, found = outcome.case, outcome.summaries
    accuracy, spread = mean_spread([s.test[s.primary] for s in found])
    nbytes, _ = mean_spread([s.file_bytes for s in found])
    return Row(
        network=case.network,
        data=outcome.data,
        method=outcome.setting,
        setting=", ".join(sorted({row.format for row in found[0].rows if len(row.shape) > 1})),
        seeds=list(case.seeds),
        accuracy=accuracy,
        spread=spread,
        baseline=mean_spread([s.baseline["test"][s.primary] for s in found])[0],
        nbytes=nbytes,
        ratio=found[0].float_bytes / nbytes,
        exempt=EXEMPT,
        paper=case.paper if outcome.setting == case.settings[-1] else None,
    )


def parity(found: Sequence[Outcome]) -> Check:
    """Return whether the runtime computed what the decoded modules do."""
    worst = max(s.difference or 0.0 for outcome in found for s in outcome.summaries)
    return Check("runtime equals decoded module", "1e-5 of the output's scale", f"{worst:.1e}", worst <= 1e-5)


def checks(outcome: Outcome) -> list[Check]:
    """Return whether a case keeps its ratio and its accuracy on test."""
    case, found = outcome.case, outcome.summaries
    ratio = row(outcome).ratio
    together = pooled([s.paired for s in found if s.paired])
    change = 100 * together.difference
    seeds = f"{len(found)} seed" + "s" * (len(found) > 1)
    return [
        Check(
            f"{case.network}: ratio of the whole file", f"{case.goal:g}x", f"{ratio:.1f}x", ratio >= case.goal
        ),
        Check(
            f"{case.network}: accuracy on test, {seeds}",
            f"-{case.most_drop} points or better",
            f"{change:+.2f} points, {together.lost} worse, {together.gained} better, p = {together.p:.2g}",
            change >= -case.most_drop - 1e-9,
        ),
    ]


def sheet(found: Sequence[Outcome]) -> Sheet:
    """Return what papers count beside what a disk does: the weights' bytes alone, and how many are left."""
    head = [
        "network",
        "setting",
        "validation, change",
        "weights not zero",
        "weights",
        "their ratio",
        "whole file",
    ]
    return Sheet("What papers count", head, [_counted(outcome) for outcome in found])


def _counted(outcome: Outcome) -> list[int | float | str | None]:
    found = outcome.summaries
    weights = [row for s in found for row in s.rows if len(row.shape) > 1]
    count = sum(prod(row.shape) for row in weights)
    left = sum(prod(row.shape) * (1 - row.sparsity) for row in weights)
    nbytes, whole = sum(row.nbytes for row in weights), sum(s.file_bytes for s in found)
    changes = [100 * (s.validation[s.primary] - s.baseline["validation"][s.primary]) for s in found]
    return [
        outcome.case.network,
        outcome.setting,
        f"{mean_spread(changes)[0]:+.2f}",
        f"{100 * left / count:.2f} %",
        round(nbytes / len(found)),
        f"{4 * count / nbytes:.1f}x",
        round(whole / len(found)),
    ]


def plot(name: str, cases: Sequence[Case], rows: Sequence[Row]) -> Plot:
    """Return a panel for each case: accuracy against ratio."""
    figure = new_figure(3.6 * len(cases), 3.6)
    for ax, case in zip(figure.subplots(1, len(cases), squeeze=False).flat, cases, strict=True):
        here = [row for row in rows if row.network == case.network]
        for row in here:
            ax.errorbar(row.ratio, 100 * row.accuracy, 100 * row.spread, fmt="o", capsize=2, label=row.method)
        floor = 100 * here[0].baseline
        ax.axhline(floor, color="#4d4d4d", linestyle="--", linewidth=1, label="float")
        ax.axvline(case.goal, color="#b2182b", linestyle=":", linewidth=1, label="goal")
        logarithmic(ax)
        ax.set_title(f"{case.network}, {here[0].data}", fontsize=9)
        ax.set_xlabel("ratio: 4 bytes a parameter / whole file")
        ax.set_ylabel("test accuracy, %")
        ax.legend(fontsize=7)
    return Plot(f"{name}.svg", svg(figure))
