"""What a reproduction writes: `results.json`, its plots, and a page that says what was measured and what holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from featherweight.evaluation.paired_test import Paired
from featherweight.files import write_whole
from featherweight.report.tables import Table
from featherweight.units import nbytes, percent

Cell = int | float | str | None
ACCURACY = "Accuracy is of the reloaded file, computed by ONNX Runtime on the test set once."
AGREEMENT = "Accuracy is agreement: the share of test images with the same top-1 as the float model."


class Paper(msgspec.Struct, frozen=True):
    """A published figure and where it stands."""

    figure: str
    source: str


class Row(msgspec.Struct, frozen=True):
    """One setting, over its seeds.

    Attributes:
        network: what was compressed.
        data: the data set, by the name of its bytes.
        method: technique.
        setting: its options.
        seeds: the seeds.
        accuracy: mean on test of the reloaded files (fraction).
        spread: sample standard deviation over the seeds; 0 for one.
        baseline: mean on test of the same networks in float (fraction).
        nbytes: mean bytes of the written files, whole.
        ratio: 4 bytes a parameter over `nbytes`.
        exempt: what was left as it was.
        paired: files against float networks, sample by sample on test, over all seeds; None if it was not compared.
        paper: the figure it is held against, if there is one.
    """

    network: str
    data: str
    method: str
    setting: str
    seeds: list[int]
    accuracy: float
    spread: float
    baseline: float
    nbytes: float
    ratio: float
    exempt: str = ""
    paired: Paired | None = None
    paper: Paper | None = None


class Sheet(msgspec.Struct, frozen=True):
    """A table of a reproduction's own, for what is not a `Row`.

    Attributes:
        title: heading.
        head: column names.
        rows: cells, numbers as numbers; None where nothing is known.
    """

    title: str
    head: list[str]
    rows: list[list[Cell]]


class Check(msgspec.Struct, frozen=True):
    """A goal and whether it was met."""

    name: str
    goal: str
    measured: str
    holds: bool


class Results(msgspec.Struct, frozen=True):
    """`results.json`."""

    name: str
    about: str
    command: str
    environment: dict[str, str]
    rows: list[Row]
    checks: list[Check]
    plots: list[str]
    remarks: list[str] = []
    sheets: list[Sheet] = []


@dataclass(frozen=True)
class Plot:
    """A picture: file name and SVG text."""

    name: str
    svg: str


@dataclass(frozen=True)
class Measured:
    """What a reproduction found, before it is written.

    Attributes:
        rows: accuracy and bytes of files.
        checks: goals.
        sheets: tables of what is not a `Row`.
        plots: pictures of what is not a `Row`.
    """

    rows: list[Row]
    checks: list[Check]
    sheets: Sequence[Sheet] = ()
    plots: Sequence[Plot] = ()


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (0 for one value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def write(results: Results, plots: Sequence[Plot], folder: Path) -> None:
    """Write `results.json`, the plots and `README.md`, each whole."""
    for plot in plots:
        write_whole(folder / plot.name, plot.svg)
    write_whole(folder / "results.json", msgspec.json.format(msgspec.json.encode(results), indent=1))
    write_whole(folder / "README.md", page(results))


def page(results: Results) -> str:
    """Return the page of a result."""
    parts = [f"# {results.name}", results.about, f"    {results.command}"]
    parts += [f"![{name}]({name})" for name in results.plots]
    checks = [[c.name, c.goal, c.measured, "yes" if c.holds else "**no**"] for c in results.checks]
    measured = [Table("Checks", ["check", "goal", "measured", "holds"], checks)]
    measured += [_rows(results.rows)] if results.rows else []
    measured += [
        Table(sheet.title, sheet.head, [[_cell(c) for c in row] for row in sheet.rows])
        for sheet in results.sheets
    ]
    parts += [f"## {table.title}\n\n" + "\n".join(table.markdown()) for table in measured]
    notes = [
        *results.remarks,
        "Environment: " + ", ".join(f"{k} {v}" for k, v in results.environment.items()) + ".",
    ]
    parts.append("## Remarks\n\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


HEAD = ["network", "data", "method", "setting", "accuracy", "spread", "float", "file", "ratio", "seeds"]


def _rows(rows: Sequence[Row]) -> Table:
    cells = [
        [
            r.network,
            r.data,
            r.method,
            r.setting,
            percent(r.accuracy),
            f"{100 * r.spread:.2f}",
            percent(r.baseline),
            nbytes(round(r.nbytes)),
            f"{r.ratio:.1f}x",
            str(len(r.seeds)),
            r.exempt,
            f"{r.paper.figure} ({r.paper.source})" if r.paper else "",
        ]
        for r in rows
    ]
    return Table("Measured", [*HEAD, "exempt", "paper"], cells)


def _cell(value: Cell) -> str:
    """Return a cell as text: numbers with separators, nothing for None."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:,}"
