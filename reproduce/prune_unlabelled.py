"""Pruning without labels: EfficientNet-Lite0 taught by itself on a few hundred images."""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.events import Events
from featherweight.task import Task
from featherweight.techniques import Finetune, Prune
from featherweight.techniques.saliencies import Magnitude, Saliency, SospH, SospI, Taylor
from featherweight.training.losses import Distillation
from featherweight.zoo.tasks import resolve
from reproduce.plots import ranking
from reproduce.results import AGREEMENT, Cell, Check, Measured, Plot, Row, Sheet
from reproduce.settings import Outcome, Setting, left, measured, row, spent
from reproduce.tasks import agreement

ABOUT = "A fifth of the multiply-accumulates of EfficientNet-Lite0 pruned with images that have no labels."
KEEP = 0.8
TRAINED, HELD = 160, 40  # images to teach with, and to choose settings by; the others are the test
SALIENCIES: dict[str, Saliency] = {
    "SOSP-H": SospH(samples=96),
    "SOSP-I": SospI(samples=96, draws=4),
    "Taylor": Taylor(samples=96),
    "L2": Magnitude(),
}
TAUGHT = Finetune(optimizer="adam", lr=1e-4, weight_decay=0.0, epochs=4, loss=Distillation(temperature=2))
REMARKS = [
    AGREEMENT,
    f"{TRAINED} images teach (distillation alone), {HELD} choose settings, the others are the test, used once.",
    "Saliencies are of the cross-entropy to the network's own answers: distillation itself has no gradient there.",
    "No label of any image is used; how accurate the float network is on them is not known.",
]


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure every saliency, with and without teaching; quick: one, hardly taught."""
    task = agreement(resolve("efficientnet-lite0-imagenet", events), (TRAINED, HELD), batch_size=32)
    taught = Finetune(epochs=1, lr=1e-4, loss=TAUGHT.loss) if quick else TAUGHT
    settings: list[Setting] = []
    for name, saliency in list(SALIENCIES.items())[: 1 if quick else None]:
        prune, kept = Prune(keep=KEEP, saliency=saliency, least=8), f"{100 * KEEP:g} % of MACs"
        settings.append(Setting(f"{name}, pruned", kept, [prune]))
        settings.append(Setting(f"{name}, pruned and taught", kept, [prune, taught]))
    made = measured("EfficientNet-Lite0", task, settings, [0], threads, events)
    rows = [row(outcome, "nothing is encoded (float32)") for outcome in made]
    return Measured(rows, [] if quick else _checks(rows), [_sheet(task, made)])


def plot(rows: Sequence[Row]) -> Plot:
    """Return the agreement of every method."""
    return ranking({"EfficientNet-Lite0, 80 % of MACs": {row.method: row for row in rows}})


def _sheet(task: Task, made: Sequence[Outcome]) -> Sheet:
    whole = spent(task.model(), task.example())
    rows: list[list[Cell]] = []
    for outcome in made:
        (summary,) = outcome.summaries
        shares = [a / b for a, b in zip(left(outcome.files[0], task), whole, strict=True)]
        shares += [summary.validation[summary.primary], summary.test[summary.primary]]
        rows.append([outcome.setting.method, *(f"{100 * share:.1f} %" for share in shares)])
    head = ["method", "MACs", "parameters", "validation", "test"]
    return Sheet("Agreement with the float network", head, rows)


def _checks(rows: Sequence[Row]) -> list[Check]:
    taught = {row.method.partition(",")[0]: 100 * row.accuracy for row in rows if "taught" in row.method}
    own = max(taught["SOSP-H"], taught["SOSP-I"])
    return [
        Check(
            f"the better SOSP against {name}, taught", f"{taught[name]:.1f} % or more", f"{own:.1f} %",
            own >= taught[name],
        )
        for name in ("Taylor", "L2")
    ]  # fmt: skip
