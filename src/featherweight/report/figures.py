"""The report's charts as plain Plotly figures; the page resolves their colours, and draws them.

A browser reads every text of a figure as a little HTML, so that whatever a user named is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from featherweight.delivery.summary import Point, Row, Sensed, Stage, Summary
from featherweight.report.tables import options_text, step_name
from featherweight.units import nbytes, percent, points

Figure = dict[str, Any]

LEAST_LOSS = 1e-4
BARS = 40
ROOM = 12
INK, MUTED, LINE, ACCENT, PAGE, FAINT = (
    f"var(--{name})" for name in ("ink", "muted", "line", "accent", "page", "faint")
)
BYTES: dict[str, Any] = {"tickformat": "~s", "ticksuffix": "B"}
# Marks at 1, 2 and 5 of each decade: a logarithmic axis of Plotly's own has no room for its words.
MARKS = [lead * 10**decade for decade in range(13) for lead in (1, 2, 5)]
DASHED = {"color": MUTED, "width": 1, "dash": "dash"}
_AXIS = {
    "gridcolor": LINE, "linecolor": LINE, "zeroline": False, "automargin": True,
    "title": {"font": {"size": 13, "color": MUTED}},
}  # fmt: skip
# What all charts have in common.
TEMPLATE = {"layout": {
    "margin": {"l": 8, "r": 8, "t": 24, "b": 8}, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
    "hoverlabel": {"bgcolor": PAGE, "bordercolor": LINE, "font": {"color": INK}, "align": "left"},
    "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}, "hovermode": "closest", "dragmode": False,
    "showlegend": False, "xaxis": _AXIS, "yaxis": _AXIS,
}}  # fmt: skip


def figures(summary: Summary) -> dict[str, Figure]:
    """Return the charts that have something to show, by the key of the table they belong to."""
    made = {"steps": steps(summary), "tensors": tensors(summary)}
    if summary.points:
        made["front"] = front(summary)
    if summary.sensitivity:
        made["sensitivity"] = sensitivity(summary)
    return made


def front(s: Summary) -> Figure:
    """Return the front: whole-file bytes against the metric on validation, both of every point that was measured."""
    base = s.baseline["validation"][s.primary]
    kinds: dict[str, tuple[list[bool], Figure]] = {
        "on the front": ([p.on_front for p in s.points], {"line": {"color": ACCENT}, "marker": {"size": 9}}),
        "beaten": ([not p.on_front for p in s.points], {"mode": "markers", "marker": {"size": 8, "color": MUTED}}),
        "chosen": ([p.chosen for p in s.points], {"mode": "markers", "hoverinfo": "skip", "marker": {
            "size": 17, "symbol": "circle-open", "color": INK, "line": {"width": 2}}}),
    }  # fmt: skip
    data = []
    for name, (those, style) in kinds.items():
        shown = [i for i, is_one in enumerate(those) if is_one]
        trace = {
            "type": "scatter", "mode": "lines+markers", "name": name,
            "x": [s.points[i].nbytes for i in shown], "y": [100 * s.points[i].value for i in shown],
            "customdata": shown, "hovertext": [_allocation(s, s.points[i]) for i in shown],
            "hoverinfo": "text",
        }  # fmt: skip
        data.append(trace | style)
    lowest = base - max([0.05, *(2 * p.drop for p in s.points if p.chosen)])
    highest = max(base, *(p.value for p in s.points))
    below = sum(p.value < lowest for p in s.points)
    lowest = max(lowest, min(p.value for p in s.points))
    margin = 0.08 * (highest - lowest) + 1e-4
    shown_range = [100 * (lowest - margin), 100 * (highest + margin)]
    place = {"x": 1, "y": 0, "xref": "paper", "yref": "paper", "yanchor": "bottom", "xanchor": "right"}
    text = {"text": f"{below} further down: see the list", "showarrow": False, **place}
    layout = {
        "xaxis": titled("whole file", type="log", tickvals=MARKS, ticktext=[nbytes(mark) for mark in MARKS]),
        "yaxis": titled(f"{s.primary} on validation", ticksuffix=" %", range=shown_range),
        # In the legend, where it hides no point.
        "shapes": [level(100 * base, "y", showlegend=True, name=f"float network, {percent(base)}")],
        "annotations": [text] * (below > 0),
        "showlegend": True,
    }
    return framed([trace for trace in data if trace["x"]], 420, layout)


def sensitivity(s: Summary) -> Figure:
    """Return the loss that each tensor adds under each option, alone; its colour is logarithmic."""
    names = list(dict.fromkeys(cell.tensor for cell in s.sensitivity))
    options = list(dict.fromkeys(cell.option for cell in s.sensitivity))
    cells = {(cell.tensor, cell.option): cell for cell in s.sensitivity}
    grid = [[cells.get((name, option)) for option in options] for name in names]
    depths = [[math.log10(max(cell.loss, LEAST_LOSS)) if cell else None for cell in row] for row in grid]
    least = math.log10(LEAST_LOSS)
    most = max([least + 1, *(depth for row in depths for depth in row if depth is not None)])
    decades = range(round(least), math.floor(most) + 1)
    marks = [f"{10.0**decade:g}" for decade in decades]
    heat = {
        "type": "heatmap", "z": depths, "hovertext": [[_cell(cell) for cell in row] for row in grid],
        "hoverinfo": "text", "zmin": least, "zmax": most, "colorscale": [[0, FAINT], [1, ACCENT]], "xgap": 1, "ygap": 1,
        "colorbar": {  # above the map: which colour is which power of ten
            "orientation": "h", "thickness": 8, "len": 0.7, "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom",
            "outlinewidth": 0, "tickvals": list(decades), "ticktext": [f"≤ {marks[0]}", *marks[1:]], "tickangle": 0,
        },
    }  # fmt: skip
    layout = {
        "xaxis": {**names_axis(options), "tickangle": -45},
        "yaxis": {**names_axis(names), "autorange": "reversed"},
    }
    return framed([heat], 190 + 22 * len(names), layout)


def steps(s: Summary) -> Figure:
    """Return whole-file bytes after each step, and above them the metric on validation."""
    counts = [stage.nbytes for stage in s.stages]
    values = [stage.metrics.get(s.primary) for stage in s.stages]
    base = s.baseline["validation"][s.primary]
    known = [100 * value for value in (*values, base) if value is not None]
    # An axis of a point at least: noise stays small.
    middle, half = (max(known) + min(known)) / 2, max(0.55 * (max(known) - min(known)), 0.5)
    texts = [_stage(s, stage) for stage in s.stages]
    shared = {"x": list(range(len(counts))), "hovertext": texts, "hoverinfo": "text"}
    sizes = {
        "type": "bar", "y": counts, "marker": {"color": [MUTED, *[ACCENT] * (len(counts) - 1)]},
        "text": [nbytes(count) for count in counts] if len(counts) <= ROOM else None,
        "textposition": "outside", "textangle": 0, "constraintext": "none", "textfont": {"size": 11},
        "cliponaxis": False,
    }  # fmt: skip
    metric = {
        "type": "scatter", "mode": "lines+markers",
        "y": [None if value is None else 100 * value for value in values], "yaxis": "y2",
        "line": {"color": INK, "width": 1.5}, "marker": {"size": 7},
    }  # fmt: skip
    shown = [middle - half, middle + half]
    layout = {
        "xaxis": {**_step_marks(s.stages), "tickfont": {"size": 11}, "showgrid": False},
        "yaxis": titled("whole file", range=[0, 1.15 * max(counts)], domain=[0, 0.6], **BYTES),
        "yaxis2": titled(s.primary, domain=[0.7, 1], ticksuffix=" %", nticks=4, range=shown),
        "shapes": [level(100 * base, "y2")], "bargap": 0.35,
    }  # fmt: skip
    return framed([sizes | shared, metric | shared], 430, layout)


def tensors(s: Summary) -> Figure:
    """Return the bytes of each tensor, largest first; `customdata` is the place in the table, -1 for all the rest."""
    order = sorted(range(len(s.rows)), key=lambda i: (-s.rows[i].nbytes, i))
    bars = [
        (i, s.rows[i].name, s.rows[i].nbytes, _tensor(s.rows[i]), bool(s.rows[i].coder)) for i in order[:BARS]
    ]
    if rest := [s.rows[i].nbytes for i in order[BARS:]]:
        bars.append((-1, f"{len(rest)} others", sum(rest), f"{sum(rest):,} bytes", False))
    places, labels, sizes, texts, coded = zip(*bars, strict=True)
    trace = {
        "type": "bar", "orientation": "h", "x": list(sizes), "y": list(range(len(sizes))),
        "customdata": list(places), "hovertext": list(texts), "hoverinfo": "text",
        "marker": {"color": [ACCENT if is_coded else MUTED for is_coded in coded]},
    }  # fmt: skip
    title = "bytes in the file (grey: not compressed" + (", or many together)" if rest else ")")
    layout = {
        "xaxis": titled(title, **BYTES), "yaxis": {**names_axis(labels), "autorange": "reversed"}, "bargap": 0.25,
    }  # fmt: skip
    return framed([trace], 90 + 22 * len(sizes), layout)


def framed(data: list[dict[str, Any]], height: int, layout: Figure) -> Figure:
    """Return a figure of `height` pixels, with what all charts have in common."""
    return {"data": data, "layout": {"template": TEMPLATE, "height": height, **layout}}


def titled(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title, and what more there is to say about it."""
    return {"title": {"text": escape(title)}, **more}


def level(height: float, axis: str, **more: Any) -> dict[str, Any]:
    """Return a dashed line across the chart, at a height on a vertical axis (`y`, `y2`)."""
    ends = {"x0": 0, "x1": 1, "y0": height, "y1": height}
    return {"type": "line", "xref": "paper", "yref": axis, "line": DASHED, **ends, **more}


def names_axis(names: Sequence[str]) -> dict[str, Any]:
    """Return an axis of names: places are numbers, since names may be equal, or look like numbers."""
    texts = [escape(short(name)) for name in names]
    return {"tickvals": list(range(len(names))), "ticktext": texts, "tickmode": "array", "showgrid": False}


def short(name: str, most: int = 26) -> str:
    """Return a name that has at most `most` characters, the last ones: they tell layers apart."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def lines(*texts: str) -> str:
    """Return texts, those that are empty aside, as the lines of one."""
    return "<br>".join(escape(text) for text in texts if text)


def _cell(cell: Sensed | None) -> str:
    if cell is None:
        return ""
    return lines(cell.tensor, cell.option, f"loss {cell.loss:+.5f}", f"{cell.nbytes:,} bytes")


def _allocation(s: Summary, point: Point, most: int = 10) -> str:
    formats = [f"{short(name)}: {label}" for name, label in point.formats.items()]
    more = [f"and {len(formats) - most} more"] if len(formats) > most else []
    size = f"{nbytes(point.nbytes)}, {s.float_bytes / point.nbytes:.1f}x"
    return lines(size, f"{percent(point.value)}, {points(-point.drop)} points", *formats[:most], *more)


def _tensor(row: Row) -> str:
    coded = f"{row.format}, {row.coder}" if row.coder else f"{row.format}, left as it was"
    sizes = f"{row.nbytes:,} bytes, {row.bits:.2f} bits a weight, {percent(row.sparsity)} zeros"
    return lines(row.name, str(row.shape), coded, sizes)


def _stage(s: Summary, stage: Stage) -> str:
    value = stage.metrics.get(s.primary)
    size = f"{nbytes(stage.nbytes)}, {s.float_bytes / stage.nbytes:.1f}x"
    measured = f"{s.primary} not finite" if value is None else f"{s.primary} {percent(value)}"
    return lines(step_name(stage), *options_text(stage.options).split(", "), size, measured)


def _step_marks(stages: Sequence[Stage]) -> dict[str, Any]:
    """Return the marks below the steps: all of them with what they select, or by name as many as there is room for."""
    shown = range(0, len(stages), math.ceil(len(stages) / ROOM))
    said = [stage.options.get("where", "") if len(shown) == len(stages) else "" for stage in stages]
    second = [short(where, 12) if isinstance(where, str) else "" for where in said]
    return {"tickvals": list(shown), "ticktext": [lines(step_name(stages[i]), second[i]) for i in shown]}
