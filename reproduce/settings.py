"""Settings of a network side by side: measured over seeds, their rows, and the smallest that keeps a demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featherweight.delivery.summary import Summary
from featherweight.evaluation.paired_test import pooled
from featherweight.events import Events
from featherweight.formats import AnyFormat, Astc
from featherweight.formats.astc.modes import Footprint
from featherweight.recipe import Recipe
from featherweight.report.plot import logarithmic, new_figure, svg
from featherweight.search import compress
from featherweight.search.allocation import allocate
from featherweight.search.front import damages
from featherweight.search.sensitivity import Sensitivity
from featherweight.task import Task
from featherweight.techniques import AnyStep
from reproduce.results import Check, Plot, Row, Sheet, mean_spread, row_of


@dataclass(frozen=True)
class Setting:
    """One way to compress.

    Attributes:
        method: what it is called, in the table and in the plot.
        setting: its options, in words.
        steps: what is done.
        retrained: whether the compressed network was trained.
    """

    method: str
    setting: str
    steps: Sequence[AnyStep]
    retrained: bool = False


@dataclass(frozen=True)
class Outcome:
    """What one setting came to on one network, seed by seed."""

    network: str
    data: str
    setting: Setting
    summaries: list[Summary]

    @property
    def change(self) -> float:
        """Mean change of the primary metric on validation, in points."""
        changes = [s.validation[s.primary] - s.baseline["validation"][s.primary] for s in self.summaries]
        return 100 * mean_spread(changes)[0]

    @property
    def ratio(self) -> float:
        """4 bytes a parameter over the mean bytes of the whole files."""
        return self.summaries[0].float_bytes / mean_spread([s.file_bytes for s in self.summaries])[0]


@dataclass(frozen=True)
class Demand:
    """What is asked: the smallest file that loses no more than so many points on validation.

    Attributes:
        about: in words.
        retrained: whether training is allowed.
        most_drop: in points.
        goal: the ratio that is sought.
        paper: the published figure.
    """

    about: str
    retrained: bool
    most_drop: float
    goal: float
    paper: str


def blocks(footprint: Footprint) -> Astc:
    """Return blocks with one range a tensor."""
    return Astc(footprint=footprint, per="tensor")


def said(formats: dict[str, AnyFormat]) -> str:
    """Return the footprints of the tensors, in words."""
    return ", ".join(
        f"{name.removesuffix('.weight')} {format_.footprint}"
        for name, format_ in formats.items()
        if isinstance(format_, Astc)
    )


def measured(
    network: str, task: Task, settings: Sequence[Setting], seeds: list[int], threads: int, events: Events
) -> list[Outcome]:
    """Return what each setting came to."""
    data = getattr(task, "dataset", task.name)
    return [
        Outcome(
            network,
            data,
            setting,
            [
                compress(task, Recipe(list(setting.steps)), seed=seed, threads=threads, events=events).summary
                for seed in seeds
            ],
        )
        for setting in settings
    ]


def row(outcome: Outcome, exempt: str) -> Row:
    """Return the line of an outcome."""
    setting = outcome.setting
    return row_of(
        outcome.summaries,
        network=outcome.network,
        data=outcome.data,
        method=setting.method,
        setting=setting.setting,
        exempt=exempt,
    )


def astc(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return those in blocks: checks are of these, whatever scalar formats reach."""
    return [outcome for outcome in outcomes if outcome.setting.method.startswith("ASTC")]


def smallest(outcomes: Sequence[Outcome], demand: Demand) -> Outcome | None:
    """Return the outcome of greatest ratio that keeps a demand on validation."""
    kept = [
        outcome
        for outcome in outcomes
        if outcome.change >= -demand.most_drop - 1e-9 and (demand.retrained or not outcome.setting.retrained)
    ]
    return max(kept, key=lambda outcome: outcome.ratio, default=None)


def check(name: str, outcomes: Sequence[Outcome], demand: Demand) -> Check:
    """Return whether the file chosen for a demand reaches its ratio, and keeps the demand on test."""
    best = smallest(outcomes, demand)
    goal = f"{demand.goal:g}x at -{demand.most_drop:g} points ({demand.paper})"
    if best is None:
        return Check(f"{name}, {demand.about}", goal, "no setting keeps it on validation", False)
    together = pooled([s.paired for s in best.summaries if s.paired])
    change = 100 * together.difference
    name_of = f"{best.setting.method}, {best.setting.setting}"
    said = f"{best.ratio:.1f}x, {change:+.2f} points on test, p = {together.p:.2g}: {name_of}"
    holds = best.ratio >= demand.goal and change >= -demand.most_drop - 1e-9
    return Check(f"{name}, {demand.about}", goal, said, holds)


def costs(outcomes: Sequence[Outcome]) -> Sheet:
    """Return what re-trained settings took, beside what validation says of them."""
    lines: list[list[int | float | str | None]] = []
    for outcome in outcomes:
        if outcome.setting.retrained:
            last = [[s for s in summary.stages if s.step == "finetune"][-1] for summary in outcome.summaries]
            seconds = mean_spread([stage.seconds for stage in last])[0]
            lines.append(
                [outcome.network, outcome.data, outcome.setting.method, outcome.setting.setting,
                 f"{outcome.change:+.2f}", round(seconds)]
            )  # fmt: skip
    return Sheet(
        "Re-training", ["network", "data", "method", "setting", "validation, change", "seconds"], lines
    )


def allocated(table: Sensitivity, ratio: float) -> dict[str, AnyFormat]:
    """Return the format of each tensor of least predicted loss at a ratio of the tensors alone."""
    rows = list(table.by_tensor().values())
    floats = sum(cell.nbytes for row in rows for cell in row if cell.option.format is None)
    coded = [[cell for cell in row if cell.option.format is not None] for row in rows]
    sizes = [[cell.nbytes for cell in row] for row in coded]
    chosen = allocate([damages(row) for row in coded], sizes, floats / ratio)
    if chosen is None:
        chosen = [row.index(min(row)) for row in sizes]
    picked = [row[i] for row, i in zip(coded, chosen, strict=True)]
    return {cell.tensor: cell.option.format for cell in picked if cell.option.format is not None}


def plot(rows: Sequence[Row], paper: Mapping[str, Sequence[tuple[float, float]]], floor: float) -> Plot:
    """Return accuracy against ratio, a panel for each network and data set.

    Args:
        rows: what was measured.
        paper: published ratios and changes in points, by what the data set's name begins with.
        floor: how many points below the float network a panel shows.
    """
    panels = list(dict.fromkeys((r.network, r.data) for r in rows))
    methods = list(dict.fromkeys(r.method for r in rows))
    figure = new_figure(5.0 * len(panels), 3.8)
    for ax, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        here = [r for r in rows if (r.network, r.data) == panel]
        base = 100 * here[0].baseline
        for number, method in enumerate(methods):
            points = sorted((r.ratio, 100 * r.accuracy, 100 * r.spread) for r in here if r.method == method)
            if points:
                x, y, spread = zip(*points, strict=True)
                ax.errorbar(
                    x, y, spread, fmt="o-", color=f"C{number}", linewidth=0.8, capsize=2, label=method
                )
        theirs = (points for data, points in paper.items() if panel[1].startswith(data))
        published = [(ratio, base + change) for ratio, change in next(theirs, ())]
        if published:
            ax.scatter(*zip(*published, strict=True), marker="*", s=70, color="k", label="poster", zorder=3)
        ax.axhline(base, color="#4d4d4d", linestyle="--", linewidth=1)
        ax.set_ylim(base - floor, max(base, *(100 * (r.accuracy + r.spread) for r in here)) + floor / 20)
        logarithmic(ax)
        ax.set_title(", ".join(panel), fontsize=9)
        ax.set_xlabel("ratio: 4 bytes a parameter / whole file")
        ax.set_ylabel("accuracy on test, %")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=6, loc="lower left")
    return Plot("front.svg", svg(figure))
