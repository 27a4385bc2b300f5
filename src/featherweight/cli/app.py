"""The commands' frame: one error line instead of a traceback, exit codes, and the list of commands."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import nullcontext, suppress
from typing import Annotated, Any

import typer

from featherweight.cli import cluster, look, make
from featherweight.cli.output import report_error, results_alone, say
from featherweight.errors import ConfigError, FeatherweightError, IntegrityError, extras

app = typer.Typer(
    name="featherweight", help="Compress neural networks for the hardware they run on.", no_args_is_help=True,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
RENAMED = {"evaluate": "eval", "list_": "list"}
for _command in (
    make.demo, make.train, make.compress, make.sensitivity, look.inspect, look.evaluate, look.bench, look.doctor,
    look.diff, look.export, look.list_, cluster.cluster,
):  # fmt: skip
    app.command(RENAMED.get(_command.__name__))(_command)

INTERRUPTED = "interrupted; the same command goes on where this one was"
STOPPED = 130
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
BUSY = 0.5  # processors that others use, of the last minute
DEBUG = "--debug"


def version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from featherweight import __version__

        say(f"featherweight {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version and exit.")
    ] = False,
    _debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error.")] = False,
) -> None:
    """Compress neural networks for the hardware they run on."""


def main() -> None:
    """Run the command line; exit 0 if it did what was asked, 1 on bad input, 2 on bad usage, 130 on Ctrl-C.

    `diff` exits 1 if the files differ.
    """
    keep_freed_memory()
    share_processors()
    with results_alone() if "--json" in sys.argv else nullcontext():
        sys.exit(run())


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory: layers free their outputs at every call, and ask for as much again.

    Giving pages back and fetching them again takes up to a fifth of a run. Other C libraries are left as they are.
    """
    with suppress(AttributeError, OSError):
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, 1 << 30)


def share_processors() -> None:
    """Let OpenMP's threads sleep while they wait, where others use the processors too.

    They spin by default, which is faster on a quiet machine. On a busy one a thread that waits holds the processor
    that the thread it waits for needs, and work of half a minute takes several.
    """
    with suppress(OSError, AttributeError):  # without a load average
        if os.getloadavg()[0] >= BUSY:
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run() -> int:
    """Run one command; return the exit code."""
    arguments = sys.argv[1:]
    if DEBUG in arguments:  # wherever it stands
        arguments = [DEBUG, *(argument for argument in arguments if argument != DEBUG)]
    try:
        with extras():
            done: Any = app(arguments, standalone_mode=False)
    except FeatherweightError as error:
        return report_error(error, 1)
    except OSError as error:
        refusal = IntegrityError(error.strerror or str(error), where=str(error.filename or ""))
        refusal.__cause__ = error
        return report_error(refusal, 1)
    except (KeyboardInterrupt, typer.Abort):
        done = STOPPED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return usage(error)
    if done == STOPPED:  # typer, too, makes this code of Ctrl-C
        return report_error(ConfigError(INTERRUPTED), STOPPED)
    return done if isinstance(done, int) else 0


def usage(error: Any) -> int:
    """Report a command that cannot be parsed; a bare `featherweight` gets its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path if context else 'featherweight'} --help"
    message: str = error.format_message().replace("Value error, ", "")
    if "'reproduc" in message:
        hint = "published results: `python -m reproduce --help` from a checkout"
    return report_error(ConfigError(message, hint=hint), 2)
