"""The report as Markdown."""

from __future__ import annotations

from featherweight.delivery.summary import Summary
from featherweight.report.tables import Table, answer, commands, facts, headline, tables


def markdown(summary: Summary) -> str:
    """Return the report as one Markdown page."""
    lines = [f"# {summary.task}, compressed", "", answer(summary), ""]
    lines += [f"- {name}: **{value}**" for name, value in headline(summary)]
    for table in tables(summary):
        lines += ["", f"## {table.title}", "", *([table.about, ""] if table.about else []), *rows_of(table)]
    lines += ["", "## How to reproduce it", "", *(f"- {fact}" for fact in facts(summary))]
    lines += ["", "```", commands(summary), "```", "", "`recipe.toml`:"]
    lines += ["", "```toml", summary.recipe.strip(), "```", ""]
    return "\n".join(lines)


def rows_of(table: Table) -> list[str]:
    """Return a table's head and rows as Markdown lines."""
    head = "| " + " | ".join(table.head) + " |"
    rule = "|" + "---|" * len(table.head)
    return [
        head,
        rule,
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows),
    ]
