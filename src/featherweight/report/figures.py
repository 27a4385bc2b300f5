"""The report's charts as plain Plotly figures; the page resolves their colours, and draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from featherweight.delivery.summary import Point, Row, Sensed, Stage, Summary
from featherweight.report.chart_parts import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    Figure,
    axis,
    byte_axis,
    bytes_from_zero,
    framed,
    level,
    lines,
    names_axis,
    note,
    short,
)
from featherweight.report.tables import options_text, step_name
from featherweight.units import nbytes, percent, points

LEAST_LOSS = 1e-4
BARS = 40
ROOM = 12


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
    on_front = [(i, p) for i, p in enumerate(s.points) if p.on_front]
    beaten = [(i, p) for i, p in enumerate(s.points) if not p.on_front]
    chosen = [(i, p) for i, p in enumerate(s.points) if p.chosen]
    circle = {"size": 17, "symbol": "circle-open", "color": INK, "line": {"width": 2}}
    data = [
        _points(
            s, "on the front", on_front, mode="lines+markers", line={"color": ACCENT}, marker={"size": 9}
        ),
        _points(s, "beaten", beaten, mode="markers", marker={"size": 8, "color": MUTED}),
        _points(s, "chosen", chosen, mode="markers", marker=circle, hoverinfo="skip"),
    ]
    lowest = base - max([0.05, *(2 * p.drop for _, p in chosen)])
    highest = max(base, *(p.value for p in s.points))
    below = sum(p.value < lowest for p in s.points)
    lowest = max(lowest, min(p.value for p in s.points))
    margin = 0.08 * (highest - lowest) + 1e-4
    across = byte_axis([p.nbytes for p in s.points])
    data.append(
        {
            "type": "scatter",
            "name": f"float network, {percent(base)}",  # in the legend, where it hides no point
            "mode": "lines",
            "x": [10**end for end in across["range"]],
            "y": [100 * base] * 2,
            "line": {"color": MUTED, "width": 1, "dash": "dash"},
            "hoverinfo": "skip",
        }
    )
    notes = []
    if below:
        notes.append(note(f"{below} further down: see the list", x=1, y=0, yref="paper", xanchor="right"))
    layout = {
        "xaxis": axis("whole file", **across),
        "yaxis": axis(
            f"{s.primary} on validation",
            ticksuffix=" %",
            range=[100 * (lowest - margin), 100 * (highest + margin)],
        ),
        "annotations": notes,
        "showlegend": True,
    }
    return {"data": [trace for trace in data if trace["x"]], "layout": framed(420, layout)}


def sensitivity(s: Summary) -> Figure:
    """Return the loss that each tensor adds under each option, alone; its colour is logarithmic."""
    names = list(dict.fromkeys(cell.tensor for cell in s.sensitivity))
    options = list(dict.fromkeys(cell.option for cell in s.sensitivity))
    cells = {(cell.tensor, cell.option): cell for cell in s.sensitivity}
    grid = [[cells.get((name, option)) for option in options] for name in names]
    depths = [[math.log10(max(cell.loss, LEAST_LOSS)) if cell else None for cell in row] for row in grid]
    least = math.log10(LEAST_LOSS)
    most = max([least + 1, *(depth for row in depths for depth in row if depth is not None)])
    heat = {
        "type": "heatmap",
        "z": depths,
        "hovertext": [[_cell(cell) for cell in row] for row in grid],
        "hoverinfo": "text",
        "zmin": least,
        "zmax": most,
        "colorscale": [[0, FAINT], [1, ACCENT]],
        "xgap": 1,
        "ygap": 1,
        "colorbar": _scale(range(round(least), math.floor(most) + 1)),
    }
    layout = {
        "xaxis": axis("", **names_axis(options), tickangle=-45, showgrid=False),
        "yaxis": axis("", **names_axis(names), autorange="reversed", showgrid=False),
    }
    return {"data": [heat], "layout": framed(190 + 22 * len(names), layout)}


def _cell(cell: Sensed | None) -> str:
    if cell is None:
        return ""
    return lines(cell.tensor, cell.option, f"loss {cell.loss:+.5f}", f"{cell.nbytes:,} bytes")


def _scale(decades: range) -> Figure:
    """Return the bar above a heatmap that says which colour is which power of ten."""
    marks = [f"{10.0**decade:g}" for decade in decades]
    return {
        "orientation": "h",
        "thickness": 8,
        "len": 0.7,
        "x": 0,
        "xanchor": "left",
        "y": 1.0,
        "yanchor": "bottom",
        "outlinewidth": 0,
        "tickvals": list(decades),
        "ticktext": [f"≤ {marks[0]}", *marks[1:]],
        "tickangle": 0,
    }


def steps(s: Summary) -> Figure:
    """Return whole-file bytes after each step, and above them the metric on validation."""
    counts = [stage.nbytes for stage in s.stages]
    values = [stage.metrics.get(s.primary) for stage in s.stages]
    base = s.baseline["validation"][s.primary]
    shared = {
        "x": list(range(len(counts))),
        "hovertext": [_stage(s, stage) for stage in s.stages],
        "hoverinfo": "text",
    }
    sizes = {
        "type": "bar",
        "y": counts,
        "marker": {"color": [MUTED, *[ACCENT] * (len(counts) - 1)]},
        "text": [nbytes(count) for count in counts] if len(counts) <= ROOM else None,
        "textposition": "outside",
        "textangle": 0,
        "constraintext": "none",
        "textfont": {"size": 11},
        "cliponaxis": False,
    }
    metric = {
        "type": "scatter",
        "mode": "lines+markers",
        "y": [None if value is None else 100 * value for value in values],
        "yaxis": "y2",
        "line": {"color": INK, "width": 1.5},
        "marker": {"size": 7},
    }
    layout = {
        "xaxis": axis("", **_step_marks(s.stages), showgrid=False),
        "yaxis": axis("whole file", **bytes_from_zero(1.15 * max(counts)), domain=[0, 0.6]),
        "yaxis2": axis(s.primary, domain=[0.7, 1], ticksuffix=" %", nticks=4, range=_span([*values, base])),
        "shapes": [level(100 * base, "y2")],
        "bargap": 0.35,
    }
    return {"data": [sizes | shared, metric | shared], "layout": framed(430, layout)}


def _span(values: Sequence[float | None]) -> list[float]:
    """Return the range of an axis of percents that holds these fractions, of a point at least: noise stays small."""
    known = [100 * value for value in values if value is not None]
    middle, half = (max(known) + min(known)) / 2, max(0.55 * (max(known) - min(known)), 0.5)
    return [middle - half, middle + half]


def tensors(s: Summary) -> Figure:
    """Return the bytes of each tensor, largest first; `customdata` is the place in the table, -1 for all the rest."""
    order = sorted(range(len(s.rows)), key=lambda i: (-s.rows[i].nbytes, i))
    shown, rest = order[:BARS], order[BARS:]
    labels, sizes = [s.rows[i].name for i in shown], [s.rows[i].nbytes for i in shown]
    texts, colours = (
        [_tensor(s.rows[i]) for i in shown],
        [ACCENT if s.rows[i].coder else MUTED for i in shown],
    )
    if rest:
        labels.append(f"{len(rest)} others")
        sizes.append(sum(s.rows[i].nbytes for i in rest))
        texts.append(f"{sizes[-1]:,} bytes")
        colours.append(MUTED)
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": sizes,
        "y": list(range(len(sizes))),
        "customdata": [*shown, *([-1] if rest else [])],
        "hovertext": texts,
        "hoverinfo": "text",
        "marker": {"color": colours},
    }
    layout = {
        "xaxis": axis(
            "in the file; grey: not compressed" + (", or many together" if rest else ""),
            **bytes_from_zero(1.05 * max(sizes)),
        ),
        "yaxis": axis("", **names_axis(labels), autorange="reversed", showgrid=False),
        "bargap": 0.25,
    }
    return {"data": [bars], "layout": framed(90 + 22 * len(sizes), layout)}


def _points(s: Summary, name: str, chosen: Sequence[tuple[int, Point]], **style: Any) -> Figure:
    return {
        "type": "scatter",
        "name": name,
        "x": [point.nbytes for _, point in chosen],
        "y": [100 * point.value for _, point in chosen],
        "customdata": [place for place, _ in chosen],
        "hovertext": [_allocation(s, point) for _, point in chosen],
        "hoverinfo": "text",
        **style,
    }


def _allocation(s: Summary, point: Point, most: int = 10) -> str:
    formats = [f"{short(name)}: {label}" for name, label in point.formats.items()]
    more = [f"and {len(formats) - most} more"] if len(formats) > most else []
    size = f"{nbytes(point.nbytes)}, {s.float_bytes / point.nbytes:.1f}x"
    return lines(size, f"{percent(point.value)}, {points(-point.drop)} points", *formats[:most], *more)


def _tensor(row: Row) -> str:
    coded = f"{row.format}, {row.coder}" if row.coder else f"{row.format}, left as it was"
    figures = f"{row.nbytes:,} bytes, {row.bits:.2f} bits a weight, {percent(row.sparsity)} zeros"
    return lines(row.name, str(row.shape), coded, figures)


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
    texts = [lines(step_name(stages[i]), second[i]) for i in shown]
    return {"tickvals": list(shown), "ticktext": texts, "tickfont": {"size": 11}}
