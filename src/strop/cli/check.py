"""`strop check`: what packing cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strop.cli.options import Backend, KeyValues

if TYPE_CHECKING:
    from rich.table import Table

    from strop.evaluation import CheckResult


def check(
    packed: Annotated[
        str, typer.Argument(metavar="PACKED", help="The model to check: packed, or any other.")
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="What it is compared with; default: what it was packed from."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="UTF-8 text; default: the documentation of Python's own library."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Most tokens to measure on.")] = 16384,
    chunk: Annotated[int, typer.Option(help="Tokens per independent piece of text.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    backend: Backend = None,
    kv: KeyValues = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure what packing cost: perplexity, divergence and agreement, with intervals.

    Both models read the same pieces of text, and their difference is taken within each piece.
    A packed model is measured as it runs on the native engine, which rounds activations as well;
    with --backend torch, only its weights differ. The other model takes its own default backend.

    [bold]Examples[/bold]

      strop check small

      strop check small --against smollm2 --text notes.txt --tokens 8192
    """
    from rich.console import Console

    from strop.data import read_text
    from strop.evaluation import check, default_text
    from strop.models import load

    content = read_text(text) if text else default_text()
    candidate = load(packed, backend, kv)
    source = load(against or packed_from(candidate.config, packed))
    result = check(candidate, source, content, tokens=tokens, chunk=chunk, seed=seed)
    if as_json:
        print(json.dumps(result.to_json(), indent=2, allow_nan=False))
    else:
        Console().print(table(result))
        print(result.sentence)


def packed_from(config: dict[str, object], name: str) -> str:
    """Return the reference that a model was packed from; StropError if its config has none."""
    from strop.errors import StropError

    quantization = config.get("quantization_config")
    source = quantization.get("source") if isinstance(quantization, dict) else None
    if not isinstance(source, str):
        raise StropError(f"{name} does not say what it was packed from: name it with --against")
    return source


def table(result: CheckResult) -> Table:
    """Lay out a result: one row per measure, with its interval and n."""
    from rich.table import Table

    level = f"{result.kl.level:.0%} interval"
    view = Table(title=f"{result.candidate} against {result.source}")
    view.add_column("measure")
    for heading in ("estimate", level, "n"):
        view.add_column(heading, justify="right")
    for name, interval, form in (
        (f"perplexity of {result.candidate}", result.perplexity, ".3f"),
        (f"perplexity of {result.source}", result.source_perplexity, ".3f"),
        ("difference (%)", result.difference, "+.3f"),
        ("KL divergence (nats per token)", result.kl, ".2e"),
        ("same first choice (%)", result.agreement.scaled(100), ".2f"),
    ):
        ends = f"{interval.low:{form}} to {interval.high:{form}}"
        view.add_row(name, f"{interval.estimate:{form}}", ends, str(interval.n))
    view.caption = f"n counts chunks of {result.chunk} tokens; {result.tokens:,} tokens scored"
    return view
