"""`strop formats`: the number formats, and all of them on one model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from strop.evaluation import FormatRow

app = typer.Typer(no_args_is_help=True, help="The number formats, and what each costs on a model.")

WIDTH = 132  # columns of the comparison where standard output is not a terminal


@app.command("list")
def list_formats() -> None:
    """List all number formats."""
    from rich.console import Console
    from rich.table import Table

    from strop.blockfp import FORMATS

    view = Table(box=None, pad_edge=False)
    view.add_column("format", no_wrap=True)
    for heading in ("bits per weight", "block", "element bits"):
        view.add_column(heading, justify="right", max_width=8)
    view.add_column("scale", no_wrap=True)
    view.add_column("description")
    for row in sorted(FORMATS.values(), key=lambda row: (row.bits_per_weight, row.name)):
        numbers = (f"{row.bits_per_weight:g}", str(row.block), str(row.code_bits))
        view.add_row(row.name, *numbers, row.scale.value, row.description)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(view)


@app.command("compare")
def compare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to quantize.")],
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Formats to compare, A+B for embedding and head in B; default: all.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="UTF-8 text; default: the documentation of Python's own library."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Most tokens to measure on.")] = 8192,
    chunk: Annotated[int, typer.Option(help="Tokens per independent piece of text.")] = 512,
    activations: Annotated[
        bool, typer.Option(help="Also measure with quantized inputs of linear layers.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the table as CSV.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Plot divergence against bits, as SVG or PNG."),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where rows are kept, so that work resumes.")
    ] = Path("runs/formats"),
) -> None:
    """Measure every format on a model: bits, signal-to-noise, perplexity and divergence.

    Rows are kept as they are measured: the same command goes on where it was interrupted.

    [bold]Examples[/bold]

      strop formats compare smollm2 --formats bfp5,mxfp4 --no-activations

      strop formats compare smollm2 --csv formats.csv --plot formats.svg
    """
    from rich.console import Console

    from strop.data import read_text
    from strop.evaluation import (
        check_plot,
        compare_formats,
        default_plans,
        default_text,
        plot_formats,
        write_csv,
    )
    from strop.models import Plan, load

    names = [name.strip() for name in formats.split(",")] if formats else default_plans()
    for name in names:
        Plan.parse(name)  # a misspelt name fails before the model is loaded
    if plot:
        check_plot(plot)
    content = read_text(text) if text else default_text()
    rows = compare_formats(
        load(model, backend="torch"),
        names,
        content,
        output,
        tokens,
        chunk,
        activations=activations,
        seed=seed,
    )
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table(rows))
    if csv:
        write_csv(rows, csv)
    if plot:
        plot_formats(rows, plot)


def table(rows: Sequence[FormatRow]) -> Table:
    """Lay out a comparison: one row per format, weights only first, by rising bits."""
    from rich.table import Table

    first = rows[0].check
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.snr_db))
    view = Table(title=f"{first.source}: what each format costs", pad_edge=False)
    view.add_column("weights", no_wrap=True)
    view.add_column("activations", no_wrap=True)
    for heading in ("bits per\nweight", *(f"{kind}\ndB" for kind in kinds)):
        view.add_column(heading, justify="right")
    view.add_column("perplexity, %", justify="right", no_wrap=True)
    view.add_column("KL, nats/1000", justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: (row.activations is not None, row.bits_per_weight)):
        view.add_row(
            row.format,
            row.activations or "float32",
            f"{row.bits_per_weight:.2f}",
            *(f"{row.snr_db[kind]:.1f}" if kind in row.snr_db else "exact" for kind in kinds),
            f"{row.check.difference:+.2f}",
            f"{row.check.kl.scaled(1000):.3g}",
        )
    view.caption = (
        f"{first.kl.level:.0%} intervals, n = {first.chunks} chunks of {first.chunk} tokens; "
        f"perplexity of the source {first.source_perplexity:.3f}\nactivations: inputs of linear "
        "layers; A+B: embedding and head in B"
    )
    return view
