"""Stochastic rounding: a sum of small numbers, a network trained on 8-bit weights, and the formats side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import sqrt

import numpy as np

from featherweight.activations import Affine, FloatingPoint
from featherweight.evaluation.metrics import metrics, model_predictor
from featherweight.events import Events
from featherweight.formats.floating import BITS, MOST, from_bits
from featherweight.formats.view import Array
from featherweight.model import Model
from featherweight.recipe import Recipe, run
from featherweight.rounding import MODES, Rounding
from featherweight.task import Split, Task
from featherweight.task.training import Optimizer
from featherweight.techniques import Train
from featherweight.workspace import pinned
from featherweight.zoo.tasks import resolve
from reproduce.figure import new_figure, svg
from reproduce.results import Cell, Check, Measured, Plot, Sheet, mean_spread

ABOUT = (
    "0.3 added to an integer a hundred times; LeNet-300-100 and LeNet-5 on MNIST with 8-bit weights and no float copy "
    "of them, to nearest and stochastically; what each number format can hold."
)
REMARKS = [
    "Weights are rounded at the start and after every update; biases, gradients and the moments of AdamW stay float32.",
    (
        "LeNet-300-100 has the zoo's settings and four epochs. Only the step of the 8-bit grid was chosen: on "
        "validation, with stochastic rounding and seed 0."
    ),
    (
        "LeNet-5 starts untrained, and has the step of LeNet-300-100. Optimizer and learning rate were chosen on "
        "validation with seed 0, for each way to keep weights among the same trials of two epochs; the rest is the "
        "zoo's. With them it was trained for two epochs, and for the four that the zoo has."
    ),
    "A weight moved if it ended more than a step of the grid from where the untrained network has it.",
    "Energy is at 45 nm: Horowitz 2014, as quoted in PMC8934428. Figures without such a source are left out.",
]
STEPS = (2.0**-6, 2.0**-7, 2.0**-8)
RUNS, EPOCHS = 20_000, 4
RATES: tuple[tuple[Optimizer, float], ...] = (
    ("adamw", 1e-3), ("adamw", 2e-3), ("adamw", 4e-3), ("sgd", 0.01), ("sgd", 0.03),
)  # fmt: skip
WHOLE, HALF = Affine(1.0, 0, 16, True), FloatingPoint(1.0, "bfloat16")
# Picojoules of an addition and a multiplication.
ENERGY = {"int32": (0.1, 3.1), "float32": (0.9, 3.7)}


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure everything; quick: one seed, one epoch, one step."""
    task, seeds = resolve("lenet300-mnist"), [0] if quick else [0, 1, 2]
    with pinned(threads):
        sums, added = _lecture()
        learn = partial(_trained, task, epochs=1 if quick else EPOCHS, threads=threads, events=events)
        steps = STEPS[1:2] if quick else STEPS
        tried = [learn(Rounding(_eight(step)), seed=0, split="validation") for step in steps]
        grid = _eight(steps[int(np.argmax(tried))])
        settings: dict[tuple[str, str], Rounding | None] = {("float32", ""): None}
        settings |= {("8 bits", how): Rounding(grid, how) for how in MODES}
        settings |= {("bfloat16", how): Rounding(HALF, how) for how in MODES[:2]}
        found = {
            key: [learn(rounding, seed=seed, split="test") for seed in seeds]
            for key, rounding in settings.items()
        }
        trials, larger, more = _lenet5(grid, seeds, quick, threads, events)
    network = _networks("LeNet-300-100 on MNIST", found)
    sheets = [sums, _choice(steps, tried), network, trials, larger, _formats()]
    return Measured([], [*added, *_checks(found), *more], sheets, [picture(network)])


def picture(sheet: Sheet) -> Plot:
    """Return the accuracies of a network by how its weights are kept, each with its spread over seeds."""
    figure = new_figure(7.0, 2.8)
    (ax,) = figure.subplots(1, 1, squeeze=False).flat
    rows = [
        (how, float(str(value).rstrip("%")), float(str(spread))) for _, how, value, spread, *_ in sheet.rows
    ]
    least = 10 * int(min(value for _, value, _ in rows) // 10)
    for place, (how, value, spread) in enumerate(reversed(rows)):
        ax.barh(place, value, xerr=spread, color="C1" if how == "nearest" else "C0", height=0.7)
        text = ax.text(
            value - spread - 0.3, place, f"{value:.2f}", va="center", ha="right", color="white", fontsize=8
        )
        text.set_in_layout(False)
    ax.set_yticks(range(len(rows)), [f"{row[0]}, {row[1]}".rstrip(", ") for row in reversed(sheet.rows)])
    ax.set_xlim(least, 100)
    ax.set_xlabel(f"accuracy on test, % (from {least})")
    return Plot("accuracy.svg", svg(figure))


def _eight(step: float) -> Affine:
    return Affine(step, 0, 8, True)


def _lecture() -> tuple[Sheet, list[Check]]:
    """Return the sums of 0.3, a hundred times, on the integers, over many runs; and what they should be."""
    nearest, stochastic = (_sums(Rounding(WHOLE, "nearest")), _sums(Rounding(WHOLE)))
    mean, variance = float(stochastic.mean()), float(stochastic.var(ddof=1))
    z, z_of_variance = (mean - 30) / sqrt(21 / RUNS), (variance / 21 - 1) / sqrt(2 / RUNS)
    name = "0.3 added a hundred times"
    rows: list[list[Cell]] = [["nearest", float(nearest.mean()), float(nearest.var())]]
    checks = [
        Check(f"{name}, to nearest", "0", f"{nearest.max():g}", not nearest.any()),
        Check(f"{name}, stochastically: mean", "30, |z| < 5", f"{mean:.3f}, z = {z:.1f}", abs(z) < 5),
        Check(
            "the same: variance", "21, |z| < 5", f"{variance:.2f}, z = {z_of_variance:.1f}", abs(z_of_variance) < 5
        ),
    ]  # fmt: skip
    rows.append(["stochastic", round(mean, 3), round(variance, 2)])
    return Sheet(
        f"{name}, {RUNS:,} sums", ["rounding", "mean", "variance"], [list(row) for row in rows]
    ), checks


def _sums(rounding: Rounding) -> Array:
    total = np.zeros(RUNS, np.float32)
    for step in range(100):
        total += np.float32(0.3)
        rounding.round(total, seed=step)
    return total


def _trained(
    task: Task, rounding: Rounding | None, *, seed: int, split: Split, epochs: int, threads: int, events: Events
) -> float:  # fmt: skip
    """Return the accuracy of the network trained with rounded weights."""
    step = Train(weights=rounding, epochs=epochs)
    return _accuracy(
        run(Recipe([step]), task, seed=seed, threads=threads, events=events)[-1].model, task, split
    )


def _accuracy(model: Model, task: Task, split: Split) -> float:
    return metrics(model_predictor(model, task), task, split)["accuracy"]


def _lenet5(
    grid: Affine, seeds: Sequence[int], quick: bool, threads: int, events: Events
) -> tuple[Sheet, Sheet, list[Check]]:
    """Return trials of optimizers and rates, LeNet-5 with those that were chosen, and what they should come to."""
    task, start = (
        resolve("lenet5-mnist", trained=False),
        Model.of(resolve("lenet5-mnist", trained=False).model()),
    )
    ways = {"float32": None, "stochastic": Rounding(grid), "nearest": Rounding(grid, "nearest")}
    tried = RATES[:1] if quick else RATES
    short, whole = (1, 2) if quick else (EPOCHS // 2, EPOCHS)

    def learned(
        rounding: Rounding | None, setting: tuple[Optimizer, float], seed: int, epochs: int = short
    ) -> Model:
        optimizer, lr = setting
        step = Train(weights=rounding, epochs=epochs, optimizer=optimizer, lr=lr)
        return run(Recipe([step]), task, seed=seed, threads=threads, events=events)[-1].model

    found = {
        way: [_accuracy(learned(rounding, setting, 0), task, "validation") for setting in tried]
        for way, rounding in ways.items()
    }
    best = {way: tried[int(np.argmax(accuracies))] for way, accuracies in found.items()}
    trials: list[list[Cell]] = [
        [optimizer, lr, *(f"{found[way][at]:.2%}" for way in ways)]
        for at, (optimizer, lr) in enumerate(tried)
    ]
    shared, own = Rounding(grid, "shared"), "its own choice"
    chosen = {
        ("float32", "", own): (None, best["float32"]),
        ("8 bits", "stochastic", own): (ways["stochastic"], best["stochastic"]),
        ("8 bits", "shared", "that of stochastic"): (shared, best["stochastic"]),
        ("8 bits", "nearest", "that of stochastic"): (ways["nearest"], best["stochastic"]),
        ("8 bits", "nearest", own): (ways["nearest"], best["nearest"]),
    }
    rows, goals = list[list[Cell]](), list[Check]()
    same = [("float32", "", own), ("8 bits", "stochastic", own), ("8 bits", "nearest", "that of stochastic")]
    for epochs, keys in {short: list(chosen), whole: same}.items():
        means = dict[tuple[str, str, str], float]()
        for key in keys:
            rounding, setting = chosen[key]
            models = [learned(rounding, setting, seed, epochs) for seed in seeds]
            mean, spread = mean_spread([_accuracy(model, task, "test") for model in models])
            means[key] = 100 * mean
            moved = np.mean([_moved(start, model, grid.scale) for model in models])
            rows.append([
                epochs, *key, f"{setting[0]}, {setting[1]:g}", f"{mean:.2%}", f"{100 * spread:.2f}",
                f"{means[key] - means[same[0]]:+.2f}", f"{moved:.1%}", len(seeds),
            ])  # fmt: skip
        near, stalled = (means[key] - means[same[0]] for key in same[1:])
        about = f"LeNet-5, {epochs} epochs, 8-bit weights"
        goal = "-0.2 points or better"
        goals.append(
            Check(f"{about}, stochastic: against float32", goal, f"{near:+.2f} points", near >= -0.2)
        )
        goal = "2 points lost or more"
        goals.append(
            Check(f"{about} to nearest, as stochastic", goal, f"{stalled:+.2f} points", stalled <= -2)
        )
    head = ["optimizer", "learning rate", "float32", "8 bits, stochastic", "8 bits, nearest"]
    columns = [
        "epochs", "weights", "rounding", "setting", "optimizer and rate", "accuracy on test", "spread",
        "points against float32", "weights that moved", "seeds",
    ]  # fmt: skip
    title = "LeNet-5 on MNIST"
    return (
        Sheet(f"{title}, two epochs: accuracy on validation", head, trials),
        Sheet(title, columns, rows),
        goals,
    )


def _moved(start: Model, end: Model, step: float) -> float:
    """Return the share of weights that ended more than a step from their start."""
    pairs = [(tensor, end.tensors[name]) for name, tensor in start.tensors.items() if tensor.dim() > 1]
    far = sum(int(((a - b).abs() > step).sum()) for a, b in pairs)
    return far / sum(a.numel() for a, _ in pairs)


def _choice(steps: Sequence[float], tried: Sequence[float]) -> Sheet:
    rows: list[list[Cell]] = [
        [f"2**{round(np.log2(step))}", f"{-128 * step:g} to {127 * step:g}", f"{accuracy:.2%}"]
        for step, accuracy in zip(steps, tried, strict=True)
    ]
    return Sheet("Choice of the 8-bit grid", ["step", "range", "accuracy on validation"], rows)


def _networks(title: str, found: dict[tuple[str, str], list[float]]) -> Sheet:
    float32, _ = mean_spread(found["float32", ""])
    rows: list[list[Cell]] = []
    for (weights, how), accuracies in found.items():
        mean, spread = mean_spread(accuracies)
        change = f"{100 * (mean - float32):+.2f}"
        rows.append([weights, how, f"{mean:.2%}", f"{100 * spread:.2f}", change, str(len(accuracies))])
    head = ["weights", "rounding", "accuracy on test", "spread", "points against float32", "seeds"]
    return Sheet(title, head, rows)


def _checks(found: dict[tuple[str, str], list[float]]) -> list[Check]:
    float32, _ = mean_spread(found["float32", ""])
    change = {key: 100 * (mean_spread(values)[0] - float32) for key, values in found.items()}
    near = [
        Check(
            f"8-bit weights, {how}: against float32", "-0.2 points or better", f"{c:+.2f} points", c >= -0.2
        )
        for how in ("stochastic", "shared")
        for c in [change["8 bits", how]]
    ]
    stalled = change["8 bits", "nearest"]
    return [
        *near, Check("8-bit weights to nearest fail", "2 points lost or more", f"{stalled:+.2f} points", stalled <= -2)
    ]  # fmt: skip


def _formats() -> Sheet:
    """Return range and precision of number formats, from their bits, and the energy of arithmetic where it is known."""
    rows: list[list[Cell]] = []
    for kind, bits in BITS.items():
        if bits == 32:
            least, after = 2.0**-149, 2.0**-23
        else:
            numbers = from_bits(np.arange(1 << bits - 1), kind)
            positive = np.unique(numbers[np.isfinite(numbers) & (numbers > 0)])
            least, after = float(positive[0]), float(positive[positive > 1][0]) - 1
        name = f"2**{round(np.log2(after))}"
        rows.append([kind, bits, f"{MOST[kind]:.4g}", f"{least:.3g}", name, *ENERGY.get(kind, (None, None))])
    for bits in (32, 16, 8, 4):
        most = f"{2 ** (bits - 1) - 1:,}"
        rows.append([f"int{bits}", bits, most, "1", "1", *ENERGY.get(f"int{bits}", (None, None))])
    head = [
        "format",
        "bits",
        "greatest",
        "least above 0",
        "step above 1",
        "addition, pJ",
        "multiplication, pJ",
    ]
    return Sheet("Number formats", head, rows)
