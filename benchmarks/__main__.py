"""The command `python -m benchmarks [NAME ...] [--quick] [-o DIR]`, from the root of a checkout; all on one thread."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from inspect import signature
from pathlib import Path

from featherweight.errors import FeatherweightError
from featherweight.workspace import pinned

ALL = (
    "coders",
    "rate",
    "formats",
    "astc",
    "linear",
    "digits",
    "integers",
    "low_bits",
    "sparsity",
    "removal",
    "sosp",
    "memory",
    "rounding",
)
TOOLS = ("astc_decoders", "astc_layouts")  # run by name only


def main(arguments: list[str] | None = None) -> int:
    """Run benchmarks by name, or all; return the exit code: 1 if one could not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(ALL)} (default: all), {', '.join(TOOLS)}"
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks and data: does it run?")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="digits, integers: folder for results.json"
    )
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - {*ALL, *TOOLS}:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    failed = False
    for name in given.names or ALL:
        run, start = import_module(f"benchmarks.{name}").main, time.perf_counter()
        print(f"\n# {name}\n", flush=True)
        try:
            with pinned(1):
                run(given.quick, given.out) if "out" in signature(run).parameters else run(given.quick)
        except FeatherweightError as error:  # data that cannot be fetched, say: the others still run
            print(f"error: {error}", file=sys.stderr)
            failed = True
        print(f"\n{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
