"""The command line. Data goes to standard output, everything else to standard error; `--json` prints one object."""

from __future__ import annotations

from featherweight.cli.app import main

__all__ = ["main"]
