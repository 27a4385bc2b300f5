"""What the charts share: axes, marks, texts, colours by the names of the page's CSS variables.

A browser reads every text of a figure as a little HTML, so that whatever a user named is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from featherweight.units import nbytes

Figure = dict[str, Any]
INK, MUTED, LINE, ACCENT, PAGE, FAINT = (
    f"var(--{name})" for name in ("ink", "muted", "line", "accent", "page", "faint")
)


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


def bytes_from_zero(most: float) -> dict[str, Any]:
    """Return a linear axis of bytes from 0 to `most`, with three to five marks: bars show sizes by their length.

    >>> bytes_from_zero(1_724_000)["ticktext"]
    ['0 B', '500 kB', '1.0 MB', '1.5 MB']
    """
    most = max(most, 1)
    decade = 10 ** math.floor(math.log10(most))
    step = next(lead * decade for lead in (0.2, 0.5, 1, 2) if most / (lead * decade) < 5)
    marks = [round(i * step) for i in range(math.floor(most / step) + 1)]
    return {
        "range": [0, most],
        "tickvals": marks,
        "ticktext": [nbytes(mark) for mark in marks],
    }


def lines(*texts: str) -> str:
    """Return texts, those that are empty aside, as the lines of one."""
    return "<br>".join(escape(text) for text in texts if text)


def short(name: str, most: int = 26) -> str:
    """Return a name that has at most `most` characters, the last ones: they tell layers apart."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def names_axis(names: Sequence[str]) -> dict[str, Any]:
    """Return the marks of an axis of names: places are numbers, since names may be equal, or look like numbers."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [escape(short(name)) for name in names],
        "tickmode": "array",
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis, quiet, with what more there is to say about it."""
    return {
        "title": {"text": escape(title), "font": {"size": 13, "color": MUTED}},
        "gridcolor": LINE,
        "linecolor": LINE,
        "zeroline": False,
        "automargin": True,
        **more,
    }


def level(height: float, axis: str) -> dict[str, Any]:
    """Return a dashed line across the chart, at a height on a vertical axis (`y`, `y2`)."""
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


def note(text: str, **place: Any) -> dict[str, Any]:
    """Return a remark at a place; `x` is a fraction of the width."""
    font = {"color": MUTED, "size": 12}
    return {
        "text": escape(text),
        "xref": "paper",
        "yanchor": "bottom",
        "showarrow": False,
        "font": font,
        **place,
    }


def framed(height: int, more: Figure) -> Figure:
    """Return a layout of `height` pixels: what all charts have in common, and `more`."""
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
