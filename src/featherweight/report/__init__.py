"""Reports of a compression: JSON, Markdown and one self-contained HTML file."""

from featherweight.report.pages import html, markdown, write_reports

__all__ = ["html", "markdown", "write_reports"]
