"""Deep Compression to the end, on four networks: prune, retrain, share weights, tune them, code what is left."""

from __future__ import annotations

from msgspec.structs import replace

from featherweight.events import Events
from featherweight.formats.coders import Cabac
from reproduce.pipeline import (
    DESCENT,
    TAUGHT,
    Case,
    ablation,
    checks,
    hurried,
    integers,
    outcomes,
    parity,
    plot,
    pruned,
    row,
    shared,
    sheet,
    swept,
)
from reproduce.results import Measured, Paper

ABOUT = "Deep Compression: quantize, prune, both, and both with fewer bits and a better coder; four networks."
HAN = "Han, Mao, Dally, Deep Compression, ICLR 2016, tables 1 to 5"

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
    cases = [hurried(CASES[0])] if quick else CASES
    found = outcomes(cases, quick, threads, events)
    rows = [row(outcome) for outcome in found]
    held = [parity(s for outcome in found for s in outcome.summaries)]
    if not quick:
        held += [
            check for outcome in found if outcome.setting == outcome.case.last for check in checks(outcome)
        ]
    return Measured(rows, held, [plot("deep-compression", cases, rows)], _remarks(quick), [sheet(found)])


def _remarks(quick: bool) -> list[str]:
    return [
        "Accuracy is of the reloaded file, computed by ONNX Runtime on the test set once.",
        "Settings were tried by hand, chosen on validation; in first trials (seed 0) test figures were in sight too.",
        "The ratio counts the whole file: weights, biases, batch norm, graph, recipe and index.",
        "p is the exact sign test over the samples that changed, the seeds pooled.",
        "The rounds and the tuning train further than the baseline did, and are taught by it (Hinton's loss).",
        *(["Quick form: one network, one epoch at a time; its figures are not results."] if quick else []),
    ]
