"""Writing the three reports beside the file they are about."""

from __future__ import annotations

from pathlib import Path

import msgspec

from featherweight.delivery.summary import Summary
from featherweight.files import write_whole
from featherweight.report.html import html
from featherweight.report.markdown import markdown


def write_reports(summary: Summary, folder: str | Path) -> list[Path]:
    """Write `report.json`, `report.md`, `report.html` and `recipe.toml` into a folder."""
    folder = Path(folder)
    return [
        write_whole(folder / "report.json", msgspec.json.format(msgspec.json.encode(summary), indent=1)),
        write_whole(folder / "report.md", markdown(summary)),
        write_whole(folder / "report.html", html(summary)),
        write_whole(folder / "recipe.toml", summary.recipe),
    ]
