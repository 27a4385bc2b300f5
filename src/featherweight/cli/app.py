"""The commands' frame: one error line instead of a traceback, exit codes, and the list of commands."""

from __future__ import annotations

import sys

import typer

from featherweight.cli import look, make
from featherweight.cli.output import report_error
from featherweight.errors import FeatherweightError, IntegrityError

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
app.command()(make.reproduce)
app.command()(look.inspect)
app.command("eval")(look.evaluate)
app.command()(look.diff)
app.command()(look.export)
app.command("list")(look.list_)


def main() -> None:
    """Run the command line; exit 0 if it did what was asked, 1 on bad input, 130 on Ctrl-C."""
    try:
        app()
    except FeatherweightError as error:
        sys.exit(report_error(error))
    except OSError as error:
        sys.exit(report_error(IntegrityError(error.strerror or str(error), where=str(error.filename or ""))))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where this one was\n")
        sys.exit(130)
