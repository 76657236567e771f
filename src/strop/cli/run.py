"""`strop run`: a recipe, from where it stands to its report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from strop.recipes import Headline


def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run directory.", show_default="runs/NAME"),
    ] = None,
    force: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Run this stage even if nothing changed; repeatable."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="STAGE.KEY=VALUE",
            help="Change one option of the recipe; repeatable.",
        ),
    ] = None,
) -> None:
    """Run the stages of a recipe that are not done yet, and write a report.

    Stages whose options and inputs did not change are kept, so that a run which was interrupted
    goes on where it stopped.
    """
    from strop.console import say
    from strop.recipes import STAGES, load_recipe, run_recipe, sections

    loaded = load_recipe(recipe, STAGES, set_ or ())
    directory = output or Path("runs") / loaded.name
    try:
        stages = run_recipe(loaded, directory, STAGES, force or (), tell=say)
    except KeyboardInterrupt:
        say("strop: interrupted: finished stages are kept; run the same command again to go on")
        raise typer.Exit(130) from None
    show([row for section in sections(stages, STAGES) for row in section.headline])
    say(f"report: {directory / 'report.html'} (and report.md)")


def show(rows: list[Headline]) -> None:
    """Print the headline table to standard output."""
    from rich.console import Console

    if rows:
        console = Console()
        if not console.is_terminal:
            console.width = 160  # a file or a pipe has no width of its own
        console.print(table(rows))


def table(rows: list[Headline]) -> Table:
    """Lay out the headline table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text  # texts hold brackets, which are markup in a str

    layout = Table(box=SIMPLE_HEAD, pad_edge=False)
    layout.add_column("")
    for name in ("before", "after", "change"):
        layout.add_column(name, justify="right")
    layout.add_column("n", justify="right")
    layout.add_column("reading")
    for row in rows:
        cells = (row.measure, row.before, row.after, row.change, row.n, row.reading)
        layout.add_row(*map(Text, cells))
    return layout
