"""Plots as SVG text, drawn by matplotlib; the same figures give the same bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from featherweight.search.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def front_plot(summary: Summary) -> str:
    """Return the front of metric against bytes as SVG, or an empty string if nothing was searched."""
    if not summary.points:
        return ""
    figure = new_figure()
    axes = figure.subplots()
    tried = [p for p in summary.points if not p.on_front]
    front = sorted((p for p in summary.points if p.on_front), key=lambda p: p.nbytes)
    axes.scatter(
        [p.nbytes / 1e3 for p in tried],
        [100 * p.value for p in tried],
        color="#9aa5b1",
        label="tried",
        zorder=2,
    )
    axes.plot(
        [p.nbytes / 1e3 for p in front],
        [100 * p.value for p in front],
        "o-",
        color="#2166ac",
        label="front",
        zorder=3,
    )
    for p in summary.points:
        if p.chosen:
            axes.scatter(
                [p.nbytes / 1e3],
                [100 * p.value],
                s=140,
                facecolors="none",
                edgecolors="#b2182b",
                linewidths=2,
                label="chosen",
                zorder=4,
            )
    float_value = summary.baseline["validation"][summary.primary]
    axes.axhline(
        100 * float_value,
        color="#4d4d4d",
        linewidth=1,
        linestyle="--",
        label=f"float ({summary.float_bytes / 1e3:,.0f} kB)",
    )
    logarithmic(axes)
    axes.set_xlabel("whole file, kB")
    axes.set_ylabel(f"{summary.primary} on validation, %")
    axes.set_title(summary.task)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return svg(figure)


def new_figure(width: float = 7.0, height: float = 4.2) -> Figure:
    """Return an empty figure of `width` by `height` inches."""
    from matplotlib.figure import Figure as MatplotlibFigure

    return MatplotlibFigure(figsize=(width, height), layout="constrained")


def logarithmic(axes: Axes) -> None:
    """Give an axis of sizes or ratios a logarithmic scale with plain numbers at 1, 2, 3 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def svg(figure: Figure) -> str:
    """Return a figure as SVG text without date or random identifiers."""
    import matplotlib as mpl

    with mpl.rc_context(
        {"svg.hashsalt": "featherweight", "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
