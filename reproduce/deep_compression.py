"""Deep Compression to the end, on four networks: prune, retrain, share weights, tune them, code what is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from msgspec.structs import replace

from featherweight.events import Events
from featherweight.formats import AnyFormat, Clustered, Float, Int
from featherweight.formats.coders import Cabac, Coder, Gaps, Huffman
from featherweight.techniques import Encode, Finetune, Fold, Gptq, Sparsify, Train
from featherweight.training.losses import Distillation
from featherweight.training.methods import AnyMethod, Centroids, StraightThrough
from featherweight.zoo.tasks import resolve
from reproduce.plots import front
from reproduce.results import ACCURACY, Cell, Check, Measured, Paper, Plot, Row, Sheet
from reproduce.settings import REST, Outcome, Setting, Steps, measured, parity, row

ABOUT = "Deep Compression: quantize, prune, both, and both with fewer bits and a better coder; four networks."
HAN = "Han, Mao, Dally, Deep Compression, ICLR 2016, tables 1 to 5"
REMARKS = [
    ACCURACY,
    "Settings were tried by hand, chosen on validation; in first trials (seed 0) test figures were visible too.",
    "The ratio counts the whole file: weights, biases, batch norm, graph, recipe and index.",
    "p is the exact sign test over the samples that changed, the seeds pooled.",
    "The rounds and the tuning train longer than the baseline did, and distil from it (Hinton's loss).",
]

HUFFMAN = Gaps(bits=5, values=Huffman(), gaps=Huffman())
FLOAT = Encode(where="*", format=Float("float16"))
EXEMPT = "biases and batch norm (float16)"

TAUGHT = Finetune(lr=2e-3, warmup=0.1, keep_zeros=True, loss=Distillation(weight=0.7))
DESCENT = Finetune(
    optimizer="nesterov", lr=0.02, weight_decay=5e-4, warmup=0.1, precision="bfloat16", keep_zeros=True,
    loss=Distillation(weight=0.7),
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


ROUNDS = replace(TAUGHT, epochs=2)
TUNING = replace(TAUGHT, lr=1e-3, epochs=4)
LENET300 = pruned((0.5, 0.7, 0.8, 0.87, 0.91, 0.94), ROUNDS, last=12)
LENET5 = pruned((0.8, 0.9, 0.95, 0.97, 0.983), replace(TAUGHT, epochs=1), last=4)
VGG = pruned((0.9,), DESCENT, last=2)
FEWEST, SWEPT = "both, fewer bits", "no training, wide steps"

CASES = (
    Case(
        "LeNet-300-100", "lenet300-mnist", (0, 1, 2), 0.1, 64,
        ablation(LENET300, TUNING) | {FEWEST: [*LENET300, *shared(TUNING, 3, Cabac())]},
        Paper("40x, 1.64 to 1.58 % error", HAN),
    ),
    Case(
        "LeNet-5", "lenet5-mnist", (0, 1, 2), 0.1, 160,
        {FEWEST: [*LENET5, *shared(replace(TUNING, epochs=3), 3, Cabac())]},
        Paper("39x, 0.80 to 0.74 % error", HAN),
    ),
    Case("ResNet-20", "resnet20-cifar10", (0,), 0.5, 12, {SWEPT: swept(0.045)}),
    Case(
        "VGG-16", "vgg16-cifar10", (0,), 0.5, 40,
        {FEWEST: [*VGG, *integers(replace(DESCENT, lr=5e-3, epochs=1), 0.1)]},
    ),
)  # fmt: skip


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every network, setting and seed; quick: the smallest network, one epoch at a time, one seed."""
    cases = [quickened(CASES[0])] if quick else CASES
    found = [(case, outcomes(case, quick, threads, events)) for case in cases]
    every = [outcome for _, those in found for outcome in those]
    held = [parity(every)]
    if not quick:
        held += [check for case, those in found for check in checks(case, those[-1])]
    rows = [line(case, outcome) for case, those in found for outcome in those]
    return Measured(rows, held, [sheet(every)])


def outcomes(case: Case, quick: bool, threads: int, events: Events) -> list[Outcome]:
    """Return what every setting of a case came to; quick: one epoch of training before."""
    task = resolve(case.task, events, trained=len(case.seeds) == 1)  # of several seeds each trains its own
    trains = getattr(task, "training", None) is not None
    train = [Train(epochs=1) if quick else Train()] if trains else []
    settings = [Setting(name, "", [*train, *steps]) for name, steps in case.settings.items()]
    return measured(case.network, task, settings, case.seeds, threads, events)


def quickened(case: Case) -> Case:
    """Return the same in little time, for tests: one seed, one epoch wherever weights train."""
    settings = {
        name: [replace(step, epochs=1) if isinstance(step, Finetune) else step for step in steps]
        for name, steps in case.settings.items()
    }
    return dataclasses.replace(case, seeds=case.seeds[:1], settings=settings)


def line(case: Case, outcome: Outcome) -> Row:
    """Return the row of one setting: the formats found in its file say what was done."""
    formats = sorted({entry.format for entry in outcome.summaries[0].rows if len(entry.shape) > 1})
    paper = case.paper if outcome.setting.method == case.last else None
    return replace(row(outcome, EXEMPT, paper), setting=", ".join(formats))


def checks(case: Case, outcome: Outcome) -> list[Check]:
    """Return whether a case keeps its ratio and its accuracy on test."""
    count, together = len(outcome.files), outcome.paired
    assert together is not None, "classifications are compared sample by sample"
    change = 100 * together.difference
    return [
        Check(
            f"{case.network}: ratio of the whole file", f"{case.goal:g}x", f"{outcome.ratio:.1f}x",
            outcome.ratio >= case.goal,
        ),
        Check(
            f"{case.network}: accuracy on test, {count} seed{'s' * (count > 1)}",
            f"-{case.most_drop} points or better",
            f"{change:+.2f} points, {together.lost} worse, {together.gained} better, p = {together.p:.2g}",
            change >= -case.most_drop - 1e-9,
        ),
    ]  # fmt: skip


def sheet(found: Sequence[Outcome]) -> Sheet:
    """Return what papers count: the weights' bytes alone, and how many are left, beside the whole file."""
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


def _counted(outcome: Outcome) -> list[Cell]:
    files = len(outcome.files)
    weights = [entry for s in outcome.summaries for entry in s.rows if len(entry.shape) > 1]
    count = sum(prod(entry.shape) for entry in weights)
    left = sum(prod(entry.shape) * (1 - entry.sparsity) for entry in weights)
    nbytes = sum(entry.nbytes for entry in weights)
    return [
        outcome.network, outcome.setting.method, f"{outcome.change:+.2f}", f"{100 * left / count:.2f} %",
        round(nbytes / files), f"{4 * count / nbytes:.1f}x", round(outcome.nbytes),
    ]  # fmt: skip


def plot(rows: Sequence[Row]) -> Plot:
    """Return accuracy against ratio, a panel for each case."""
    return front(rows, 3.0, goals={case.network: case.goal for case in CASES})
