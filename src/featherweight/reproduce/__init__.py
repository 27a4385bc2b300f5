"""Every published result of the project is one command: `featherweight reproduce NAME`."""

from featherweight.reproduce.registry import REPRODUCTIONS, reproduce
from featherweight.reproduce.results import Check, Measured, Plot, Results, Row, Sheet

__all__ = ["REPRODUCTIONS", "Check", "Measured", "Plot", "Results", "Row", "Sheet", "reproduce"]
