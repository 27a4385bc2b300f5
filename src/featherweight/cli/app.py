"""The commands' frame: one error line instead of a traceback, exit codes, and the list of commands."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import typer

from featherweight.cli import look, make, running
from featherweight.cli.output import data_to, report_error
from featherweight.errors import ConfigError, FeatherweightError, IntegrityError

app = typer.Typer(
    name="featherweight",
    help="Compress neural networks for the hardware they run on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(make.demo)
app.command()(make.train)
app.command()(make.compress)
app.command()(make.sensitivity)
app.command()(look.inspect)
app.command("eval")(look.evaluate)
app.command()(running.bench)
app.command()(running.doctor)
app.command()(look.diff)
app.command()(look.export)
app.command("list")(look.list_)

INTERRUPTED = "interrupted; the same command goes on where this one was"


def main() -> None:
    """Run the command line; exit 0 if it did what was asked, 1 on bad input, 2 on bad usage, 130 on Ctrl-C."""
    with data_to(sys.stdout):
        if "--json" in sys.argv:
            with redirect_stdout(sys.stderr):
                sys.exit(run())
        sys.exit(run())


def run() -> int:
    """Run one command; return the exit code."""
    try:
        done: Any = app(standalone_mode=False)
    except FeatherweightError as error:
        return report_error(error, 1)
    except OSError as error:
        return report_error(IntegrityError(error.strerror or str(error), where=str(error.filename or "")), 1)
    except (KeyboardInterrupt, typer.Abort):
        return report_error(ConfigError(INTERRUPTED), 130)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return usage(error)
    return done if isinstance(done, int) else 0


def usage(error: Any) -> int:
    """Report a command that cannot be parsed; a bare `featherweight` gets its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path if context else 'featherweight'} --help"
    message: str = error.format_message()
    if "'reproduc" in message:
        hint = "published results: `python -m reproduce --help` from a checkout"
    return report_error(ConfigError(message, hint=hint), 2)
