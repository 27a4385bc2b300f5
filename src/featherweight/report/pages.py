"""The report as JSON, as Markdown, and as one HTML file that needs nothing else: tables, and charts drawn over them."""

from __future__ import annotations

import base64
import gzip
import json
import re
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path

import msgspec

from featherweight.delivery.summary import Point, Summary
from featherweight.files import write_whole
from featherweight.report.figures import Figure, figures
from featherweight.report.tables import Table, answer, commands, facts, headline, tables
from featherweight.units import nbytes, percent, points

NUMBER = re.compile(r"-|([+-]?[\d,.]+(e[+-]?\d+)?( ?(%|x|[kMG]?B))?)")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


def write_reports(summary: Summary, folder: str | Path) -> list[Path]:
    """Write `report.json`, `report.md`, `report.html` and `recipe.toml` into a folder."""
    contents: dict[str, bytes | str] = {
        "report.json": msgspec.json.format(msgspec.json.encode(summary), indent=1),
        "report.md": markdown(summary), "report.html": html(summary), "recipe.toml": summary.recipe,
    }  # fmt: skip
    return [write_whole(Path(folder) / name, content) for name, content in contents.items()]


def markdown(summary: Summary) -> str:
    """Return the report as one Markdown page."""
    lines = [f"# {summary.task}, compressed", "", answer(summary), ""]
    lines += [f"- {name}: **{value}**" for name, value in headline(summary)]
    for table in tables(summary):
        lines += ["", f"## {table.title}", "", *([table.about, ""] if table.about else []), *table.markdown()]
    lines += ["", "## How to reproduce it", "", *(f"- {fact}" for fact in facts(summary))]
    lines += ["", "```", commands(summary), "```", "", "`recipe.toml`:"]
    return "\n".join([*lines, "", "```toml", summary.recipe.strip(), "```", ""])


def html(summary: Summary) -> str:
    """Return the report as one self-contained page; the same summary gives the same page."""
    title = escape(f"{summary.task}, compressed")
    drawn = figures(summary)
    made = [*(_section(table, drawn, summary) for table in tables(summary)), _reproduce(summary)]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_own("page.css")}</style></head>
<body>
<header><h1>{title}</h1>
<p class="answer">{escape(answer(summary))}</p>
{_headline(summary)}
</header>
{"".join(made)}
<script type="application/json" id="figures">{_json(drawn)}</script>
<script type="text/plain" id="plotly">{packed_plotly()}</script>
<script>{_own("page.js")}</script>
</body></html>
"""


def _headline(s: Summary) -> str:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(v)}</dd></div>" for name, v in headline(s))
    measured = f"Test figures are of the file, loaded again and run by {escape(s.runtime)}."
    return f'<dl class="figures">{pairs}</dl><p class="about">{measured}</p>'


def _section(table: Table, drawn: dict[str, Figure], s: Summary) -> str:
    chart, body = "", _table(table)
    if table.key in drawn:
        chart = f'<div class="wide"><div class="chart" id="chart-{table.key}"></div></div>'
    if table.key == "front":
        chart, body = f'<div class="beside">{chart}{_allocations(s)}</div>', ""
    if table.key == "sensitivity":
        body = f"<details><summary>The figures</summary>{body}</details>"
    return f"<section><h2>{escape(table.title)}</h2><p>{escape(table.about)}</p>{chart}{body}</section>\n"


def _allocations(s: Summary) -> str:
    """Return the points, smallest file first; each opens to what it made of every tensor, one at a time."""
    head = f"<h3>File, ratio, {escape(s.primary)} (points)</h3>"
    each = "".join(_allocation(place, point, s) for place, point in enumerate(s.points))
    return f'<div class="allocations">{head}{each}</div>'


def _allocation(place: int, p: Point, s: Summary) -> str:
    said = f"{nbytes(p.nbytes)}, {s.float_bytes / p.nbytes:.1f}x, {percent(p.value)} ({points(-p.drop)})"
    mark = " <b>chosen</b>" if p.chosen else "" if p.on_front else " <i>beaten</i>"
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(f)}</td></tr>" for name, f in p.formats.items())
    return (
        f'<details name="allocation" id="point-{place}"{" open" if p.chosen else ""}>'
        f'<summary>{said}{mark}</summary><div class="wide"><table>{rows}</table></div></details>'
    )


def _table(table: Table) -> str:
    columns = list(zip(*table.rows, strict=True))
    numbers = [all(NUMBER.fullmatch(cell) for cell in column if cell) and any(column) for column in columns]

    def line(tag: str, cells: list[str]) -> str:
        parts = []
        for number, cell in zip(numbers, cells, strict=True):
            kind = ' class="number"' if number else ' class="long"' if tag == "td" and len(cell) > 40 else ""
            parts.append(f"<{tag}{kind}>{escape(cell)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    head, rows = line("th", table.head), "\n".join(line("td", row) for row in table.rows)
    return (
        f'<div class="wide rows"><table id="table-{table.key}"><thead>{head}</thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _reproduce(s: Summary) -> str:
    said = "".join(f"<li>{escape(fact)}</li>" for fact in facts(s))
    return (
        f"<section><h2>How to reproduce it</h2><ul>{said}</ul>"
        f"<h3>Commands</h3><pre>{escape(commands(s))}</pre>"
        f"<h3>recipe.toml</h3><pre>{escape(s.recipe.strip())}</pre></section>\n"
    )


def _json(value: object) -> str:
    """Return JSON that ends no script element, whatever its texts say."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _own(name: str) -> str:
    return (resources.files("featherweight.report") / name).read_text(encoding="utf-8")


@cache
def packed_plotly() -> str:
    """Return plotly.js as the page carries it: gzip in base64, 2.0 MB instead of 4.8."""
    script = (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode()
