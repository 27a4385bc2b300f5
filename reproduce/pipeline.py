"""Prune, retrain, share weights, tune the shared values, code what is left: steps, cases, rows and checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from msgspec.structs import replace

from featherweight.delivery.summary import Summary
from featherweight.evaluation.paired_test import pooled
from featherweight.events import Events
from featherweight.formats import AnyFormat, Clustered, Float, Int
from featherweight.formats.coders import Cabac, Coder, Gaps, Huffman
from featherweight.recipe import Recipe
from featherweight.report.plot import logarithmic, new_figure, svg
from featherweight.search import compress
from featherweight.techniques import AnyStep, Encode, Finetune, Fold, Gptq, Sparsify, Train
from featherweight.training.distillation import Distillation
from featherweight.training.methods import AnyMethod, Centroids, StraightThrough
from featherweight.zoo.tasks import resolve
from reproduce.results import Check, Paper, Plot, Row, Sheet, mean_spread, row_of

Steps = list[AnyStep]

HUFFMAN = Gaps(bits=5, values=Huffman(), gaps=Huffman())
FLOAT = Encode(where="*", format=Float("float16"))
REST = Encode(where=["*", "!weights"], format=Float("float16"))
EXEMPT = "biases and batch norm (float16)"

TAUGHT = Finetune(lr=2e-3, warmup=0.1, keep_zeros=True, distill=Distillation())
DESCENT = Finetune(
    optimizer="nesterov", lr=0.02, weight_decay=5e-4, warmup=0.1, precision="bfloat16", keep_zeros=True,
    distill=Distillation(),
)  # fmt: skip


def pruned(sparsities: Sequence[float], training: Finetune, *, last: int) -> Steps:
    """Return rounds, each of which sets more weights to zero (LAMP) and trains what is left; `last`: epochs."""
    steps: Steps = []
    for sparsity in sparsities:
        epochs = last if sparsity == sparsities[-1] else training.epochs
        steps += [Sparsify(sparsity=sparsity, scope="lamp"), replace(training, epochs=epochs)]
    return steps


def tuned(training: Finetune, format_: AnyFormat, method: AnyMethod, coder: Coder) -> Steps:
    """Return training in a format, and float16 for what is no weight."""
    return [replace(training, format=format_, method=method, coder=coder), REST]


def shared(training: Finetune, bits: int, coder: Coder) -> Steps:
    """Return training of shared values."""
    return tuned(training, Clustered(bits=bits), Centroids(lr_scale=1), coder)


def integers(training: Finetune, rate: float) -> Steps:
    """Return training straight through integers as wide as `rate` says."""
    return tuned(training, Int(bits=5, per="tensor", scale_by=rate), StraightThrough(), Cabac())


def swept(rate: float, samples: int = 512) -> Steps:
    """Return what needs no training: integers as wide as `rate` says, rounded so that outputs stay."""
    wide = Int(bits=6, per="tensor", scale_by=rate)
    return [Fold(), Gptq(format=wide, coder=Cabac(), samples=samples), REST]


def ablation(pruning: Steps, tuning: Finetune) -> dict[str, Steps]:
    """Return the settings of the paper: quantize, prune, both; and both with a better coder."""
    both = [*pruning, *shared(tuning, 5, HUFFMAN)]
    return {
        "quantize": shared(tuning, 4, Huffman()),
        "prune": [*pruning, Encode(format=Float("float16"), coder=Gaps(bits=5)), REST],
        "both, Huffman": both,
        "both, CABAC": [*both, Encode(format=Clustered(bits=5), coder=Cabac())],
    }


@dataclass(frozen=True)
class Case:
    """A network, what is done to it, and what is asked of the last setting.

    Attributes:
        network: its name in the table.
        task: its task.
        seeds: of training and of everything after it.
        most_drop: points of accuracy that may be lost.
        goal: ratio that is sought.
        settings: name and steps of each row.
        paper: the published figure.
    """

    network: str
    task: str
    seeds: tuple[int, ...]
    most_drop: float
    goal: float
    settings: Mapping[str, Steps]
    paper: Paper | None = None

    @property
    def last(self) -> str:
        """The setting that is judged."""
        return list(self.settings)[-1]


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
        train = [Train(epochs=1) if quick else Train()] if trains else []
        for setting, steps in case.settings.items():
            recipe = Recipe([*train, *steps])
            summaries = [
                compress(task, recipe, seed=seed, threads=threads, events=events).summary
                for seed in case.seeds
            ]
            found.append(Outcome(case, setting, getattr(task, "dataset", task.name), summaries))
    return found


def hurried(case: Case) -> Case:
    """Return the same in little time, for tests: one seed, one epoch wherever weights train."""
    settings = {
        name: [replace(step, epochs=1) if isinstance(step, Finetune) else step for step in steps]
        for name, steps in case.settings.items()
    }
    return dataclasses.replace(case, seeds=case.seeds[:1], settings=settings)


def row(outcome: Outcome) -> Row:
    """Return the line of one setting, over its seeds."""
    case, found = outcome.case, outcome.summaries
    return row_of(
        found,
        network=case.network,
        data=outcome.data,
        method=outcome.setting,
        setting=", ".join(sorted({row.format for row in found[0].rows if len(row.shape) > 1})),
        exempt=EXEMPT,
        paper=case.paper if outcome.setting == case.last else None,
    )


def parity(found: Iterable[Summary]) -> Check:
    """Return whether the runtime computed what the decoded modules do."""
    worst = max(summary.difference or 0.0 for summary in found)
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
        ax.set_xlim(1, 1.4 * max(case.goal, *(row.ratio for row in here)))
        ax.set_title(f"{case.network}, {here[0].data}", fontsize=9)
        ax.set_xlabel("ratio: 4 bytes a parameter / whole file")
        ax.set_ylabel("test accuracy, %")
        ax.legend(fontsize=7)
    return Plot(f"{name}.svg", svg(figure))
