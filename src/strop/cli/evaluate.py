"""strop eval: how good a model is at tasks, alone or beside another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strop.cli.options import Chosen, with_endpoint
from strop.console import say
from strop.errors import StropError


@with_endpoint
def evaluate(
    endpoint: Chosen,
    model: Annotated[
        str | None,
        typer.Argument(help="Model: as for strop generate, or an endpoint, http://host/v1#name."),
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Names by commas, or YAML files of your own; see --list.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to write.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Another model, which gets the same rows.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Take the first so many rows of each task; 0: all.", min=0)
    ] = 0,
    chat: Annotated[
        bool | None,
        typer.Option(
            help="Put prompts into the chat template, or continue them as they are.",
            show_default="by the kind of task",
        ),
    ] = None,
    names: Annotated[bool, typer.Option("--list", help="Name the tasks, and leave.")] = False,
) -> None:
    """Measure how good a model is at tasks, with intervals; or how much better than another.

    Both models get the same rows, so the difference is paired; among several tasks, p-values are
    corrected together. Every prompt and answer is in OUTPUT/samples. Killed, stopped or cut off by
    an endpoint, the same command goes on where it was; the key of an endpoint comes from
    STROP_API_KEY or OPENAI_API_KEY. Endpoints cannot do tasks of choice.

    [bold]Examples[/bold]

      strop eval small --tasks openbookqa,boolq --limit 500 -o results

      strop eval tuned --against smollm2 --tasks instructions,mine.yaml -o results

      strop eval https://host/v1#model --tasks asdiv --per-minute 60 -o results
    """
    from strop.evaluation.evaluate import described, spelled
    from strop.evaluation.evaluate import evaluate as run
    from strop.lm import RemoteConfig

    if names:
        print(described())
        return
    if model is None or output is None:
        raise StropError("name a model and, with -o, a directory to write")
    chosen = [name.strip() for name in tasks.split(",") if name.strip()]
    remote = RemoteConfig(**endpoint)
    print(spelled(run(model, chosen, output, against, limit, chat, remote)))
    say(f"written to {output}")
