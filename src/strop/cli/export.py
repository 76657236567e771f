"""`strop export`: write a model for other programs, and check what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strop.cli.options import Model
from strop.errors import StropError

DEFAULT_FORMAT = "bfp8"


def export(
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory or .gguf file to write.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="KIND",
            help="merged (a transformers directory), packed, gguf-f16, gguf-q8_0, or adapter (for "
            "peft; only of an adapter directory).",
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="Number format of a packed model; `strop formats list` shows all.",
            show_default=DEFAULT_FORMAT,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A text file with a prompt in each line, to check it on.",
            show_default="six of ours",
        ),
    ] = None,
) -> None:
    """Write a model in another form, and check that it still says the same.

    The model answers a few prompts; what was written must give the tokens of these answers the same
    log-probabilities, as far as its number format allows. If not, nothing is kept, and the exit
    code is 1. An adapter directory is merged into its base, but for --as adapter. Needs PyTorch.

    [bold]Examples[/bold]

      strop export smollm2 --as gguf-q8_0 -o smollm2.gguf

      strop export runs/tuned/adapter --as merged -o tuned
    """
    from strop import evaluation
    from strop.console import quantity
    from strop.data import read_text
    from strop.evaluation.export import PROMPTS

    if format is not None and kind != "packed":
        raise StropError(f"--format is for --as packed, not {kind}")
    texts = list(PROMPTS)
    if prompts:
        texts = [line for line in read_text(prompts).splitlines() if line.strip()]
        if not texts:
            raise StropError(f"{prompts}: no prompts: write one in each line")
    report = evaluation.export(model, output, kind, format or DEFAULT_FORMAT, texts)
    print(
        f"log-probabilities differ by {report.mean:.2g} nats per token on average, "
        f"{report.largest:.2g} at most; same first choice: {report.agreement:.1%} "
        f"({report.tokens} tokens of answers to {report.prompts} prompts)"
    )
    print(f"{output}: {quantity(report.size, 'B')}")
