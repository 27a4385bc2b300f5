"""The report as one HTML file that needs nothing else: no script, no network, light and dark."""

from __future__ import annotations

import re
from html import escape

from featherweight.report.plot import front_plot
from featherweight.report.tables import Table, facts, headline, tables
from featherweight.search.summary import Summary

NUMBER = re.compile(r"[+-]?[\d,.]+(e[+-]?\d+)?( ?(%|x|[kMG]?B))?")
STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: CanvasText; --page: Canvas; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .5rem } h2 { margin-top: 2.5rem }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none }
.figures li { border: 1px solid var(--line); border-radius: .6rem; padding: .6rem 1rem; min-width: 8rem }
.figures b { display: block; font-size: 1.5rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .25rem .7rem; text-align: left; white-space: nowrap; max-width: 34rem; overflow-wrap: anywhere }
td.long { white-space: normal; min-width: 16rem }
td.number { white-space: nowrap }
th { border-bottom: 2px solid var(--line) } td { border-bottom: 1px solid var(--line) }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.plot { background: #fff; border-radius: .6rem; padding: .5rem; max-width: 46rem }
.plot svg { width: 100%; height: auto }
pre { overflow-x: auto;
  border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; font-size: .85rem }
li { overflow-wrap: anywhere }
"""


def html(summary: Summary) -> str:
    """Return the report as one self-contained page."""
    title = escape(f"{summary.task}, compressed")
    figures = "".join(f"<li>{escape(name)}<b>{escape(value)}</b></li>" for name, value in headline(summary))
    plot = front_plot(summary)
    body = [f"<h1>{title}</h1>", f'<ul class="figures">{figures}</ul>']
    if plot:
        body.append(f'<div class="plot">{plot}</div>')
    body += [_table(table) for table in tables(summary)]
    body.append(
        "<h2>How this came about</h2><ul>"
        + "".join(f"<li>{escape(f)}</li>" for f in facts(summary))
        + "</ul>"
    )
    body.append(f"<pre>{escape(summary.recipe.strip())}</pre>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "\n".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in table.rows)
    about = f"<p>{escape(table.about)}</p>" if table.about else ""
    return (
        f'<h2>{escape(table.title)}</h2>{about}<div class="wide"><table><tr>{head}</tr>\n{rows}</table></div>'
    )


def _cell(text: str) -> str:
    number = NUMBER.fullmatch(text) is not None
    kind = "number" if number else "long" if len(text) > 40 else ""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"
