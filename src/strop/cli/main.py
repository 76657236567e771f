"""The command line: parses, calls one public function, prints what came back.

Command modules import only the standard library and typer at the top, and the rest of Strop
inside their functions, so that `strop --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from strop.cli import formats
from strop.cli.chat import chat
from strop.cli.check import check
from strop.cli.generate import generate
from strop.cli.pack import pack, unpack
from strop.cli.run import run
from strop.errors import StropError

app = typer.Typer(
    name="strop",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def show_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        from strop import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=show_version, is_eager=True),
    ] = False,
) -> None:
    """Make small open models smaller, better and faster on the machine you have, and measure it."""


app.command()(run)
app.command()(pack)
app.command()(unpack)
app.command()(check)
app.command()(generate)
app.command()(chat)
app.add_typer(formats.app, name="formats")


def main() -> None:
    """Run the command; errors become one line on standard error and an exit code.

    Exit codes: 0 success, 1 failure, 2 bad input, 130 interrupted.
    """
    try:
        app(standalone_mode=True)
    except StropError as error:
        stop(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader went away (`strop ... | head`): there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        stop(f"{name}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        stop("interrupted", 130)
    except MemoryError:
        stop("out of memory", 1)


def stop(message: str, code: int) -> None:
    """Print one line and leave."""
    print(f"strop: {message}", file=sys.stderr)
    sys.exit(code)
