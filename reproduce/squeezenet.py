"""SqueezeNet against AlexNet on small images: the accuracy at a fraction of the parameters, then Deep Compression."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from featherweight.events import Events
from reproduce.deep_compression import (
    DESCENT,
    FLOAT,
    Case,
    checks,
    integers,
    line,
    outcomes,
    pruned,
    quickened,
    sheet,
)
from reproduce.plots import front
from reproduce.results import ACCURACY, Check, Measured, Plot, Row
from reproduce.settings import Outcome, parity

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


REMARKS = [
    ACCURACY,
    "The float networks are the baselines kept with the zoo: AlexNet in integers, SqueezeNet in float16.",
    "The ratio counts the whole file: weights, biases, batch norm, graph, recipe and index.",
    "The rounds and the tuning train longer than the baselines did, and distil from them (Hinton's loss).",
]


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure both networks, in float16 and compressed; quick: SqueezeNet alone, one epoch at a time."""
    cases = [quickened(CASES[1])] if quick else CASES
    found = [outcome for case in cases for outcome in outcomes(case, quick, threads, events)]
    held = [parity(found)]
    if not quick:
        held += [*_against(*found), *checks(CASES[1], found[-1])]
    rows = [line(CASES[1], outcome) for outcome in found]
    return Measured(rows, held, [sheet(found)])


def plot(rows: Sequence[Row]) -> Plot:
    """Return accuracy against ratio, a panel for each network."""
    return front(rows, 3.0, goals={case.network: case.goal for case in CASES[1:]})


def _against(alexnet: Outcome, plain: Outcome, smallest: Outcome) -> list[Check]:
    """Return how SqueezeNet compares with AlexNet: parameters, accuracy, and the smallest file."""
    large, small = (outcome.summaries[0] for outcome in (alexnet, plain))
    fewer, ratio = large.float_bytes / small.float_bytes, large.float_bytes / smallest.nbytes
    change = 100 * (small.baseline["test"][small.primary] - large.baseline["test"][large.primary])
    return [
        Check("SqueezeNet: fewer parameters than AlexNet", "25x", f"{fewer:.1f}x", fewer >= 25),
        Check(
            "SqueezeNet: accuracy on test against AlexNet, both in float", "-0.5 points or better",
            f"{change:+.2f} points", change >= -0.5,
        ),
        Check("SqueezeNet's smallest file against AlexNet in float32", "300x", f"{ratio:.0f}x", ratio >= 300),
    ]  # fmt: skip
