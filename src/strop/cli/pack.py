"""`strop pack` and `strop unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strop.errors import StropError

DEFAULT_FORMAT = "bfp5"


def pack(
    model: Annotated[
        str, typer.Argument(help="An alias (smollm2), a model directory, a .gguf file or a hub id.")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="Number format; `strop formats list` shows all.",
            show_default=DEFAULT_FORMAT,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory to write; NAME-FORMAT if left out."),
    ] = None,
    tensor: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor",
            "-t",
            metavar="PATTERN=FORMAT",
            help="Another format for some tensors, or 'keep'; repeatable, the last match holds.",
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Make up for rounding errors, on text that the model writes itself."
        ),
    ] = False,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Calibrate on this UTF-8 text instead."),
    ] = None,
    bits: Annotated[
        float | None,
        typer.Option(
            help="Instead of a format: bits per weight to spend where they help most; calibrates."
        ),
    ] = None,
) -> None:
    """Pack a model's weights into a block format.

    Embedding and head are packed too, norms and biases are kept. Two formats joined by a plus sign
    give the second to embedding and head: bfp4+bfp6.

    Calibrating takes minutes, needs PyTorch, and loses a good deal less at the same bits.

    [bold]Examples[/bold]

        strop pack smollm2
        strop pack smollm2 --format bfp8 -o smollm2-8bit
        strop pack smollm2 --calibrate
        strop pack smollm2 --bits 4.75
        strop pack smollm2 -t '*.down_proj.weight=bfp5' -t 'model.layers.0.*=keep'
    """
    from rich.console import Console
    from rich.table import Table

    from strop import models
    from strop.console import quantity
    from strop.data import read_text

    if format is None and bits is None:
        format = DEFAULT_FORMAT
    overrides = dict(split(entry) for entry in tensor or [])
    name = Path(model).expanduser().resolve().name if Path(model).is_dir() else model
    kind = format if format is not None else f"{bits:g}bits"
    target = output or Path(f"{Path(name).name.removesuffix('.gguf')}-{kind}")
    summary = models.pack(
        model,
        format,
        target,
        overrides,
        calibrate=calibrate,
        text=read_text(text) if text else None,
        bits=bits,
    )
    table = Table("kind", "format", "tensors", "weights", "bits per weight", "SNR (dB)")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in models.by_kind(summary):
        snr = "-" if row.snr_db is None else f"{row.snr_db:.1f}"
        table.add_row(
            row.kind, row.format, f"{row.tensors}", f"{row.weights:,}", f"{row.bits:.2f}", snr
        )
    console = Console()
    console.print(table)
    tokens = summary.calibration_tokens
    calibrated = f", calibrated on {tokens:,} tokens" if tokens else ""
    ratio = summary.source_bytes / summary.packed_bytes
    console.print(
        f"{target}: {quantity(summary.packed_bytes, 'B')}, {summary.bits_per_weight:.2f} bits per "
        f"weight over all {summary.weights:,} weights; {ratio:.1f} times smaller than "
        f"{quantity(summary.source_bytes, 'B')} ({summary.seconds:.1f} s{calibrated})",
        highlight=False,
    )


def split(entry: str) -> tuple[str, str]:
    """Split PATTERN=FORMAT."""
    pattern, equals, format = entry.rpartition("=")
    if not equals or not pattern:
        raise StropError(f"--tensor {entry}: expected PATTERN=FORMAT")
    return pattern, format


def unpack(
    directory: Annotated[Path, typer.Argument(help="A packed directory.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")],
) -> None:
    """Turn a packed model back into an ordinary transformers directory in float32.

    [bold]Example[/bold]

        strop unpack smollm2-bfp5 -o smollm2-plain
    """
    from strop import models

    models.unpack(directory, output)
    print(output)
