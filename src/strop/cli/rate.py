"""strop rate: examples, rated by a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strop.console import say


def rate(
    data: Annotated[Path, typer.Argument(help="JSON lines: prompts or instructions, and answers.")],
    rater: Annotated[
        str,
        typer.Option(help="Model that rates: as for strop generate, or http://host/v1#name."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")],
    rubric: Annotated[
        str, typer.Option(help="accuracy, helpfulness, or a YAML file of your own.")
    ] = "accuracy",
    limit: Annotated[int, typer.Option(help="Rate the first so many rows; 0: all.", min=0)] = 0,
    together: Annotated[int, typer.Option(help="Requests to an endpoint at once.", min=1)] = 8,
    per_minute: Annotated[
        float, typer.Option(help="Requests a minute, at most; 0: no limit.", min=0)
    ] = 0.0,
    price_in: Annotated[
        float, typer.Option(help="Price of a million tokens that an endpoint reads.", min=0)
    ] = 0.0,
    price_out: Annotated[
        float, typer.Option(help="Price of a million tokens that it writes.", min=0)
    ] = 0.0,
) -> None:
    """Rate each row from 0 to 5 with a language model.

    The grade is read from the reply, and as the mean over the probabilities of 0 to 5. A reply
    without a grade leaves its row unrated: there is no default. Everything that was replied is in
    OUTPUT/ratings.jsonl. Killed, stopped or cut off by an endpoint, the same command goes on; the
    key of an endpoint comes from STROP_API_KEY or OPENAI_API_KEY.

    [bold]Examples[/bold]

      strop rate raw.jsonl --rater small -o rated

      strop rate raw.jsonl --rater https://host/v1#model --per-minute 60 --rubric mine.yaml -o rated
    """
    from strop.lm import RemoteConfig
    from strop.selection.rate import rate as run
    from strop.selection.rate import spelled

    remote = RemoteConfig(
        together=together, per_minute=per_minute, price_in=price_in, price_out=price_out
    )
    facts = run(data, rater, output, rubric, remote, limit)
    print(spelled(facts))
    say(f"written to {output}")
