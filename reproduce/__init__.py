"""Every published result of the project is one command: `python -m reproduce NAME`."""

from reproduce.registry import REPRODUCTIONS, redraw, reproduce
from reproduce.results import Check, Measured, Plot, Results, Row, Sheet

__all__ = ["REPRODUCTIONS", "Check", "Measured", "Plot", "Results", "Row", "Sheet", "redraw", "reproduce"]
