"""Deep Compression to the end: prune, retrain, share weights, tune the shared values, code what is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from msgspec.structs import replace

from featherweight.events import Events
from featherweight.formats import AnyFormat, Clustered, Float, Int
from featherweight.formats.coders import Cabac, Coder, Gaps, Huffman
from featherweight.recipe import Recipe
from featherweight.report.plot import logarithmic, new_figure, svg
from featherweight.reproduce.results import Check, Measured, Paper, Plot, Row, Sheet, mean_spread
from featherweight.search import compress
from featherweight.search.paired import pooled
from featherweight.search.summary import Summary
from featherweight.techniques import AnyStep, Encode, Finetune, Sparsify, Train
from featherweight.training.distillation import Distillation
from featherweight.training.methods import AnyMethod, Centroids, StraightThrough
from featherweight.zoo.tasks import resolve

ABOUT = (
    "Deep Compression: quantize, prune, both, and both with fewer bits and a better coder; three networks."
)
HAN = "Han, Mao, Dally, Deep Compression, ICLR 2016, tables 1 to 5"
HUFFMAN = Gaps(bits=5, values=Huffman(), gaps=Huffman())
REST = Encode(where=["*", "!weights"], format=Float("float16"))
EXEMPT = "biases and batch norm (float16)"


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


ALL = ("quantize", "prune", "both, Huffman", "both, CABAC", "both, fewer bits")
TAUGHT = Finetune(lr=2e-3, warmup=0.1, keep_zeros=True, distill=Distillation())
DESCENT = Finetune(
    optimizer="nesterov", lr=0.02, weight_decay=5e-4, warmup=0.1, precision="bfloat16", keep_zeros=True
)
SHARED = (Clustered(bits=3), Centroids(lr_scale=1))


def integers(bits: int) -> tuple[AnyFormat, AnyMethod]:
    """Return integers with one scale for a tensor, trained straight through."""
    return Int(bits=bits, per="tensor", scale_by="mse"), StraightThrough()


CASES = (
    Case(
        "LeNet-300-100", "lenet300-mnist", (0, 1, 2), 0.1, 64, (0.5, 0.7, 0.8, 0.87, 0.91, 0.94), (2, 12, 4),
        TAUGHT, replace(TAUGHT, lr=1e-3), SHARED, ALL, Paper("40x, 1.64 to 1.58 % error", HAN),
    ),
    Case(
        "LeNet-5", "lenet5-mnist", (0, 1, 2), 0.1, 160, (0.8, 0.9, 0.95, 0.97, 0.983), (1, 4, 3),
        TAUGHT, replace(TAUGHT, lr=1e-3), SHARED, ALL[-1:], Paper("39x, 0.80 to 0.74 % error", HAN),
    ),
    Case(
        "ResNet-20", "resnet20-cifar10", (0,), 0.5, 12, (0.3, 0.5, 0.6), (1, 3, 2),
        replace(DESCENT, distill=Distillation()), replace(DESCENT, lr=5e-3, distill=Distillation()),
        integers(4), ALL[-1:],
    ),
)  # fmt: skip


def recipe(case: Case, setting: str, *, train: Train | None) -> Recipe:
    """Return the steps of a setting; `train` is None for a network that comes trained."""
    before: list[AnyStep] = [train] if train else []
    if setting == "quantize":
        return Recipe([*before, *_tuned(case, Clustered(bits=4), Centroids(lr_scale=1), Huffman())])
    before += pruning(case)
    if setting == "prune":
        return Recipe([*before, Encode(format=Float("float16"), coder=Gaps(bits=5)), REST])
    if setting == "both, fewer bits":
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


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every network, setting and seed; quick: the smallest network, one round, one epoch, one seed."""
    cases = [hurried(CASES[0])] if quick else CASES
    rows, found = [], {}
    for case in cases:
        task = resolve(case.task, events)
        trains = getattr(task, "training", None) is not None
        train = Train(epochs=1) if quick else Train() if trains else None
        for setting in case.settings:
            summaries = [
                compress(
                    task, recipe(case, setting, train=train), seed=seed, threads=threads, events=events
                ).summary
                for seed in case.seeds
            ]
            found[case, setting] = summaries
            rows.append(_row(case, setting, getattr(task, "dataset", task.name), summaries))
    checks = [_parity(found.values())]
    if not quick:
        checks += [check for case in cases for check in _checks(case, found[case, case.settings[-1]])]
    return Measured(rows, checks, [_plot(cases, rows)], _remarks(quick), [_sheet(found)])


def hurried(case: Case) -> Case:
    """Return the same in little time, for tests."""
    return dataclasses.replace(case, seeds=case.seeds[:1], sparsities=case.sparsities[-1:], epochs=(1, 1, 1))


def _row(case: Case, setting: str, data: str, found: Sequence[Summary]) -> Row:
    accuracy, spread = mean_spread([s.test[s.primary] for s in found])
    nbytes, _ = mean_spread([s.file_bytes for s in found])
    return Row(
        network=case.network,
        data=data,
        method=setting,
        setting=", ".join(sorted({row.format for row in found[0].rows if len(row.shape) > 1})),
        seeds=list(case.seeds),
        accuracy=accuracy,
        spread=spread,
        baseline=mean_spread([s.baseline["test"][s.primary] for s in found])[0],
        nbytes=nbytes,
        ratio=found[0].float_bytes / nbytes,
        exempt=EXEMPT,
        paper=case.paper if setting == case.settings[-1] else None,
    )


def _parity(found: Iterable[Sequence[Summary]]) -> Check:
    worst = max(s.difference or 0.0 for summaries in found for s in summaries)
    return Check("runtime equals decoded module", "1e-5 of the output's scale", f"{worst:.1e}", worst <= 1e-5)


def _checks(case: Case, found: Sequence[Summary]) -> list[Check]:
    ratio = found[0].float_bytes / mean_spread([s.file_bytes for s in found])[0]
    together = pooled([s.paired for s in found if s.paired])
    change = 100 * together.difference
    measured = f"{change:+.2f} points, {together.lost} worse, {together.gained} better, p = {together.p:.2g}"
    return [
        Check(
            f"{case.network}: ratio of the whole file", f"{case.goal:g}x", f"{ratio:.1f}x", ratio >= case.goal
        ),
        Check(
            f"{case.network}: accuracy on test, {len(found)} seed(s)",
            f"-{case.most_drop} points or better",
            measured,
            change >= -case.most_drop - 1e-9,
        ),
    ]


def _sheet(found: Mapping[tuple[Case, str], Sequence[Summary]]) -> Sheet:
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
    rows: list[list[int | float | str | None]] = []
    for (case, setting), summaries in found.items():
        weights = [row for s in summaries for row in s.rows if len(row.shape) > 1]
        count = sum(prod(row.shape) for row in weights)
        left = sum(prod(row.shape) * (1 - row.sparsity) for row in weights)
        nbytes, whole = sum(row.nbytes for row in weights), sum(s.file_bytes for s in summaries)
        change = mean_spread(
            [100 * (s.validation[s.primary] - s.baseline["validation"][s.primary]) for s in summaries]
        )[0]
        rows.append(
            [
                case.network,
                setting,
                f"{change:+.2f}",
                f"{100 * left / count:.2f} %",
                round(nbytes / len(summaries)),
                f"{4 * count / nbytes:.1f}x",
                round(whole / len(summaries)),
            ]
        )
    return Sheet("What papers count", head, rows)


def _remarks(quick: bool) -> list[str]:
    return [
        "Accuracy is of the reloaded file, computed by ONNX Runtime on the test set once.",
        "Settings were tried by hand, chosen on validation; in first trials (seed 0) test figures were in sight too.",
        "The ratio counts the whole file: weights, biases, batch norm, graph, recipe and index.",
        "p is the exact sign test over the samples that changed, the seeds pooled.",
        "The rounds and the tuning train further than the baseline did, and are taught by it (Hinton's loss).",
        *(["Quick form: one network, one round, one epoch; its figures are not results."] if quick else []),
    ]


def _plot(cases: Sequence[Case], rows: Sequence[Row]) -> Plot:
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
    return Plot("deep-compression.svg", svg(figure))
