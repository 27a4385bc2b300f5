"""SqueezeNet against AlexNet on small images: the accuracy at a fraction of the parameters, then Deep Compression."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from featherweight.events import Events
from reproduce.pipeline import (
    DESCENT,
    FLOAT,
    Case,
    Outcome,
    checks,
    hurried,
    integers,
    outcomes,
    parity,
    plot,
    pruned,
    row,
    sheet,
)
from reproduce.results import Check, Measured

ABOUT = (
    "SqueezeNet against AlexNet, 32 x 32 pixels: the same accuracy, fewer parameters; then Deep Compression."
)

PLAIN, FEWEST = "float16", "both, fewer bits"
TUNING = replace(DESCENT, lr=5e-3)
SQUEEZENET = pruned((0.4, 0.6), DESCENT, last=3)

CASES = (
    Case("AlexNet", "alexnet-cifar10", (0,), 0.0, 1, {PLAIN: [FLOAT]}),
    Case(
        "SqueezeNet", "squeezenet-cifar10", (0,), 0.5, 10,
        {PLAIN: [FLOAT], FEWEST: [*SQUEEZENET, *integers(replace(TUNING, epochs=2), 0.05)]},
    ),
)  # fmt: skip


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure both networks, in float16 and compressed; quick: SqueezeNet alone, one epoch at a time."""
    cases = [hurried(CASES[1])] if quick else CASES
    found = outcomes(cases, quick, threads, events)
    rows = [row(outcome) for outcome in found]
    held = [parity(s for outcome in found for s in outcome.summaries)]
    if not quick:
        held += _against(found)
        held += [check for outcome in found if outcome.setting == FEWEST for check in checks(outcome)]
    return Measured(rows, held, [plot("squeezenet", [CASES[1]], rows)], _remarks(quick), [sheet(found)])


def _against(found: Sequence[Outcome]) -> list[Check]:
    """Return how SqueezeNet compares with AlexNet: parameters, accuracy, and the smallest file."""
    alexnet, squeezenet = (row(outcome) for outcome in found if outcome.setting == PLAIN)
    smallest = row(found[-1])
    floats = [outcome.summaries[0].float_bytes for outcome in found if outcome.setting == PLAIN]
    fewer, change = floats[0] / floats[1], 100 * (squeezenet.baseline - alexnet.baseline)
    return [
        Check("SqueezeNet: fewer parameters than AlexNet", "25x", f"{fewer:.1f}x", fewer >= 25),
        Check(
            "SqueezeNet: accuracy on test against AlexNet, both in float",
            "-0.5 points or better",
            f"{change:+.2f} points",
            change >= -0.5,
        ),
        Check(
            "SqueezeNet's smallest file against AlexNet in float32",
            "300x",
            f"{floats[0] / smallest.nbytes:.0f}x",
            floats[0] / smallest.nbytes >= 300,
        ),
    ]


def _remarks(quick: bool) -> list[str]:
    return [
        "Accuracy is of the reloaded file, computed by ONNX Runtime on the test set once.",
        "The float networks are the baselines kept with the zoo: AlexNet in integers, SqueezeNet in float16.",
        "The ratio counts the whole file: weights, biases, batch norm, graph, recipe and index.",
        "The rounds and the tuning train further than the baselines did, and are taught by them (Hinton's loss).",
        *(["Quick form: one network, one epoch at a time; its figures are not results."] if quick else []),
    ]
