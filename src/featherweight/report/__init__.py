"""Reports of a compression: JSON, Markdown and one self-contained HTML file."""

from featherweight.report.html import html
from featherweight.report.markdown import markdown
from featherweight.report.write import write_reports

__all__ = ["html", "markdown", "write_reports"]
