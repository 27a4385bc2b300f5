"""The report's charts as plain Plotly figures; colours are names of the page's CSS variables, resolved in the browser.

A browser reads every text of a figure as a little HTML, so that whatever a user named is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from featherweight.report.tables import options_text, step_name
from featherweight.search.summary import Point, Row, Stage, Summary
from featherweight.units import nbytes, percent, points

Figure = dict[str, Any]
INK, MUTED, LINE, ACCENT, PAGE, FAINT = (
    f"var(--{name})" for name in ("ink", "muted", "line", "accent", "page", "faint")
)
LEAST_LOSS = 1e-4
BARS = 40


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
    lowest = base - max(0.05, *(2 * p.drop for _, p in chosen))
    highest = max(base, *(p.value for p in s.points))
    below = sum(p.value < lowest for p in s.points)
    lowest = max(lowest, min(p.value for p in s.points))
    margin = 0.08 * (highest - lowest) + 1e-4
    notes = [_note(f"float network, {percent(base)}", x=0.01, y=100 * base, yref="y", xanchor="left")]
    if below:
        notes.append(_note(f"{below} further down: see the list", x=1, y=0, yref="paper", xanchor="right"))
    layout = {
        "xaxis": _axis("whole file", **byte_axis([p.nbytes for p in s.points])),
        "yaxis": _axis(
            f"{s.primary} on validation",
            ticksuffix=" %",
            range=[100 * (lowest - margin), 100 * (highest + margin)],
        ),
        "shapes": [_level(100 * base, "y")],
        "annotations": notes,
        "showlegend": True,
    }
    return {"data": [trace for trace in data if trace["x"]], "layout": _layout(420, layout)}


def sensitivity(s: Summary) -> Figure:
    """Return the loss that each tensor adds under each option, alone; its colour is logarithmic."""
    names = list(dict.fromkeys(cell.tensor for cell in s.sensitivity))
    options = list(dict.fromkeys(cell.option for cell in s.sensitivity))
    cells = {(cell.tensor, cell.option): cell for cell in s.sensitivity}
    depths: list[list[float | None]] = []
    texts: list[list[str]] = []
    for name in names:
        row = [cells.get((name, option)) for option in options]
        depths.append([math.log10(max(cell.loss, LEAST_LOSS)) if cell else None for cell in row])
        texts.append(
            [
                _lines(name, cell.option, f"loss {cell.loss:+.5f}", f"{cell.nbytes:,} bytes") if cell else ""
                for cell in row
            ]
        )
    least = math.log10(LEAST_LOSS)
    most = max(least + 1, *(depth for row in depths for depth in row if depth is not None))
    decades = range(round(least), math.floor(most) + 1)
    heat = {
        "type": "heatmap",
        "z": depths,
        "hovertext": texts,
        "hoverinfo": "text",
        "zmin": least,
        "zmax": most,
        "colorscale": [[0, FAINT], [1, ACCENT]],
        "xgap": 1,
        "ygap": 1,
        "colorbar": {
            "orientation": "h",
            "thickness": 8,
            "len": 0.7,
            "x": 0,
            "xanchor": "left",
            "y": 1.0,
            "yanchor": "bottom",
            "outlinewidth": 0,
            "tickvals": list(decades),
            "ticktext": [f"{10.0**d:g}" if d > decades[0] else f"{10.0**d:g} or less" for d in decades],
        },
    }
    layout = {
        "xaxis": _axis("", **_places(options), tickangle=-45, showgrid=False),
        "yaxis": _axis("", **_places(names), autorange="reversed", showgrid=False),
    }
    return {"data": [heat], "layout": _layout(190 + 22 * len(names), layout)}


def steps(s: Summary) -> Figure:
    """Return whole-file bytes after each step, on a logarithmic axis, and above them the metric on validation."""
    places = list(range(len(s.stages)))
    values = [stage.metrics.get(s.primary) for stage in s.stages]
    texts = [
        _lines(
            step_name(stage),
            *options_text(stage.options).split(", "),
            f"{nbytes(stage.nbytes)}, {s.float_bytes / stage.nbytes:.1f}x",
            f"{s.primary} {percent(value)}" if value is not None else "",
        )
        for stage, value in zip(s.stages, values, strict=True)
    ]
    shared = {"x": places, "hovertext": texts, "hoverinfo": "text"}
    sizes = {
        "type": "bar",
        "y": [stage.nbytes for stage in s.stages],
        "marker": {"color": [MUTED, *[ACCENT] * (len(places) - 1)]},
        "text": [nbytes(stage.nbytes) for stage in s.stages] if len(places) <= 12 else None,
        "textposition": "outside",
        "textangle": 0,
        "cliponaxis": False,
        **shared,
    }
    metric = {
        "type": "scatter",
        "mode": "lines+markers",
        "y": [None if value is None else 100 * value for value in values],
        "yaxis": "y2",
        "line": {"color": INK, "width": 1.5},
        "marker": {"size": 7},
        **shared,
    }
    counts = [stage.nbytes for stage in s.stages]
    layout = {
        "xaxis": _axis("", tickvals=places, ticktext=[_tick(stage) for stage in s.stages], showgrid=False),
        "yaxis": _axis("whole file", **byte_axis([min(counts) / 2.5, max(counts) * 1.4]), domain=[0, 0.6]),
        "yaxis2": _axis(f"{s.primary}", domain=[0.7, 1], ticksuffix=" %", nticks=4),
        "shapes": [_level(100 * s.baseline["validation"][s.primary], "y2")],
        "bargap": 0.35,
    }
    return {"data": [sizes, metric], "layout": _layout(430, layout)}


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
        "xaxis": _axis("bytes in the file; grey: left as it was", rangemode="tozero"),
        "yaxis": _axis("", **_places(labels), autorange="reversed", showgrid=False),
        "bargap": 0.25,
    }
    return {"data": [bars], "layout": _layout(90 + 22 * len(sizes), layout)}


def byte_axis(values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis of bytes that holds `values`, with marks at 1, 2 and 5 of each decade.

    >>> byte_axis([900, 60_000])["ticktext"]
    ['1 kB', '2 kB', '5 kB', '10 kB', '20 kB', '50 kB']
    """
    low, high = math.log10(max(min(values), 1)), math.log10(max(*values, 1))
    margin = 0.06 * (high - low) + 0.02
    low, high = low - margin, high + margin
    decades = range(math.floor(low), math.ceil(high) + 1)
    leaders = (1, 2, 5) if high - low < 2.2 else (1,)
    marks = [lead * 10**d for d in decades if d >= 0 for lead in leaders]
    marks = [mark for mark in marks if low <= math.log10(mark) <= high]
    return {
        "type": "log",
        "range": [low, high],
        "tickvals": marks,
        "ticktext": [nbytes(mark) for mark in marks],
    }


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
    formats = [f"{_short(name)}: {label}" for name, label in point.formats.items()]
    more = [f"and {len(formats) - most} more"] if len(formats) > most else []
    size = f"{nbytes(point.nbytes)}, {s.float_bytes / point.nbytes:.1f}x"
    return _lines(size, f"{percent(point.value)}, {points(-point.drop)} points", *formats[:most], *more)


def _tensor(row: Row) -> str:
    coded = f"{row.format}, {row.coder}" if row.coder else f"{row.format}, left as it was"
    figures = f"{row.nbytes:,} bytes, {row.bits:.2f} bits a weight, {percent(row.sparsity)} zeros"
    return _lines(row.name, str(row.shape), coded, figures)


def _tick(stage: Stage) -> str:
    where = stage.options.get("where", "")
    return _lines(step_name(stage), _short(where, 16) if isinstance(where, str) else "")


def _lines(*texts: str) -> str:
    return "<br>".join(escape(text) for text in texts if text)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _places(names: Sequence[str]) -> dict[str, Any]:
    """Return the marks of an axis of names: places are numbers, since names may be equal, or look like numbers."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [escape(_short(name)) for name in names],
        "tickmode": "array",
    }


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": escape(title), "font": {"size": 13, "color": MUTED}},
        "gridcolor": LINE,
        "linecolor": LINE,
        "zeroline": False,
        "automargin": True,
        **more,
    }


def _level(height: float, axis: str) -> dict[str, Any]:
    line = {"color": MUTED, "width": 1, "dash": "dash"}
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": axis,
        "y0": height,
        "y1": height,
        "line": line,
    }


def _note(text: str, **place: Any) -> dict[str, Any]:
    font = {"color": MUTED, "size": 12}
    return {"text": text, "xref": "paper", "yanchor": "bottom", "showarrow": False, "font": font, **place}


def _layout(height: int, more: Figure) -> Figure:
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "hoverlabel": {"bgcolor": PAGE, "bordercolor": LINE, "font": {"color": INK}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "hovermode": "closest",
        "dragmode": False,
        "showlegend": False,
        **more,
    }
