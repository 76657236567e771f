"""The command line: parses, calls one public function, prints what came back.

Command modules import only the standard library and typer at the top, and the rest of Strop
inside their functions, so that `strop --help` answers at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from strop.cli import formats, tune
from strop.cli.chat import chat
from strop.cli.check import check
from strop.cli.draft import draft
from strop.cli.evaluate import evaluate
from strop.cli.export import export
from strop.cli.generate import generate
from strop.cli.mix import fit_mixture, mix, train
from strop.cli.pack import pack, unpack
from strop.cli.plan import plan
from strop.cli.preferences import judge, pairs, rank, sample
from strop.cli.run import run
from strop.cli.selection import how_many, rate, score, select
from strop.cli.trial import trial
from strop.cli.verify import verify
from strop.console import is_first
from strop.errors import StropError

#: Typer brings its own copy of click, or not: this is what both call wrong usage.
UsageError: Any = typer.BadParameter.__base__

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
app.command()(plan)
app.command()(pack)
app.command()(unpack)
app.command()(export)
app.command()(check)
app.command("eval")(evaluate)
app.command()(generate)
app.command()(chat)
app.command()(verify)
app.command()(draft)
for command in (sample, rank, pairs, judge):
    app.command()(command)
app.command()(mix)
app.command()(fit_mixture)
app.command()(train)
app.command()(rate)
app.command()(score)
app.command()(select)
app.command()(how_many)
app.command()(trial)
app.add_typer(tune.app, name="tune")
app.add_typer(formats.app, name="formats")


def main() -> None:
    """Run the command; errors become one line on standard error and an exit code.

    Exit codes: 0 success, 1 failure, 2 bad input, 130 interrupted, 143 terminated.
    """
    prepare()
    try:
        # Not app(): it prints errors of usage over several lines, and hides who was interrupted.
        command = typer.main.get_command(app)
        with command.make_context("strop", sys.argv[1:]) as context:
            command.invoke(context)
        sys.stdout.flush()  # a full disk shows here, not while Python shuts down
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except StropError as error:
        stop(str(error), error.exit_code)
    except UsageError as error:
        stop(usage(error), 2)
    except BrokenPipeError:
        # The reader went away (`strop ... | head`): there is nobody left to tell.
        drop_output()
        sys.exit(0)
    except OSError as error:
        drop_output()
        name = f"{error.filename}: " if error.filename else ""
        stop(f"{name}{error.strerror or error}", 2)
    except (KeyboardInterrupt, typer.Abort):
        stop("interrupted", 130)
    except MemoryError:
        stop("out of memory", 1)
    sys.exit(0)


def prepare() -> None:
    """Make output of any text possible, and let SIGTERM and SIGHUP clean up before the end."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    if not is_first():  # one of several processes prints what all have found
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # not every terminal has every character
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and so do we then
            signal.signal(number, terminate)


def terminate(number: int, frame: object) -> NoReturn:
    """Leave by an exception, so that nothing half-written stays."""
    os.write(2, b"strop: terminated\n")  # print may be what was interrupted
    sys.exit(128 + number)


def usage(error: Any) -> str:
    """Say in one line what is wrong with the command line; without arguments, show the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(2)
    message = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx else "strop"
    return f"{message[:1].lower()}{message[1:]} (see {command} --help)"


def drop_output() -> None:
    """Discard what was not written to standard output, if nobody can take it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stop(message: str, code: int) -> NoReturn:
    """Print one line and leave."""
    line = " ".join(message.splitlines())
    # Control characters come out of names and files, and terminals obey them.
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
    print(f"strop: {shown}", file=sys.stderr)
    sys.exit(code)
