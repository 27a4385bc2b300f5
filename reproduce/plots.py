"""The two plots of most results: accuracy against ratio, and methods one below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

from reproduce.figure import logarithmic, new_figure, svg
from reproduce.results import Plot, Row

GREY = "#4d4d4d"
LEAST_SPAN = 2.0  # points that an axis shows at least


def metric(rows: Sequence[Row]) -> str:
    """Return the label of an axis."""
    agreement = rows[0].data.startswith("agreement")
    return "same top-1 as in float, % of test images" if agreement else "accuracy on test, %"


def front(
    rows: Sequence[Row],
    floor: float,
    *,
    published: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    goals: Mapping[str, float] | None = None,
) -> Plot:
    """Return accuracy against ratio, a panel for each network and data set.

    Args:
        rows: what was measured.
        floor: how many points below the float network a panel shows.
        published: ratios and changes in points, by what the data set's name begins with.
        goals: the ratio that is sought, by network; panels then begin at 1.
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
        theirs = (points for data, points in (published or {}).items() if panel[1].startswith(data))
        stars = [(ratio, base + change) for ratio, change in next(theirs, ())]
        if stars:
            ax.scatter(*zip(*stars, strict=True), marker="*", s=70, color="k", label="published", zorder=3)
        goal = (goals or {}).get(panel[0])
        if goals:
            ax.set_xlim(1, 1.3 * max(goal or 1, *(r.ratio for r in here)))
        if goal:
            ax.axvline(goal, color="#b2182b", linestyle=":", linewidth=1, label="goal")
        ax.axhline(base, color=GREY, linestyle="--", linewidth=1, label="float network")
        ax.set_ylim(base - floor, max(base, *(100 * (r.accuracy + r.spread) for r in here)) + floor / 20)
        logarithmic(ax)
        ax.set_title(fill(", ".join(panel), 60), fontsize=9)
        ax.set_xlabel("ratio: 4 bytes a parameter / whole file")
        ax.set_ylabel(metric(here))
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=6, loc="lower left")
    return Plot("front.svg", svg(figure))


def ranking(panels: Mapping[str, Mapping[str, Row]], *, columns: int = 3) -> Plot:
    """Return the accuracy of methods, one below the other, with the spread over seeds and the float network.

    Args:
        panels: title to rows by label.
        columns: panels side by side.
    """
    columns = min(len(panels), columns)
    lines = -(-len(panels) // columns)
    longest = max(len(rows) for rows in panels.values())
    figure = new_figure(max(5.5, 4.4 * columns), (1.1 + 0.26 * longest) * lines)
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for ax, (title, rows) in zip(axes, panels.items(), strict=False):
        means, spreads = (
            [100 * getattr(row, key) for row in rows.values()] for key in ("accuracy", "spread")
        )
        ax.errorbar(means, list(rows), xerr=spreads, fmt="o", capsize=2, color="#4d7ea8")
        ax.axvline(100 * next(iter(rows.values())).baseline, color=GREY, linestyle="--", linewidth=1)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        low, high = ax.get_xlim()
        room = max(0.0, LEAST_SPAN - (high - low)) / 2
        ax.set_xlim(low - room, high + room)
        ax.set_title(fill(title, 42), fontsize=8)
        ax.set_xlabel(metric(list(rows.values())), fontsize=8)
        ax.tick_params(labelsize=7)
        ax.grid(alpha=0.3)
    for ax in axes:
        ax.set_visible(False)
    return Plot("methods.svg", svg(figure))
