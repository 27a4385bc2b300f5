"""The command `python -m reproduce NAME`, from the root of a checkout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from featherweight.errors import FeatherweightError
from reproduce.registry import REPRODUCTIONS, redraw, reproduce


def main(arguments: list[str] | None = None) -> int:
    """Measure one published result again, or list them all; return the exit code, 1 for an error."""
    names = "\n".join(f"  {name:18}{entry.about}" for name, entry in REPRODUCTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m reproduce",
        description="Measure a published result again: results.json, plots and a page.\n"
        "The same command resumes an interrupted run.",
        epilog=f"results:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a small version of the same run, for tests")
    parser.add_argument("--redraw", action="store_true", help="page and plot again, from results.json alone")
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="default: docs/results/NAME")
    parser.add_argument("--threads", type=int, metavar="N", help="compute threads (affects output bytes)")
    parser.add_argument(
        "--price", type=float, metavar="DOLLARS", help="of an hour: training-cost counts by it"
    )
    given = parser.parse_args(arguments)
    folder = given.out or Path("docs/results") / given.name
    try:
        if given.redraw:
            results = redraw(given.name, folder)
        else:
            results = reproduce(
                given.name, folder, quick=given.quick, threads=given.threads, price=given.price
            )
    except FeatherweightError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for check in results.checks:
        held = "holds" if check.holds else "DOES NOT HOLD"
        sys.stdout.write(f"{held}: {check.name}: {check.measured} (goal: {check.goal})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
