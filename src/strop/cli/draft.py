"""`strop draft`: make a draft head for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strop.cli.options import Model
from strop.console import say


def draft(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Directory to write.", show_default="draft, in the model's"
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A text file with a prompt in each line, such as you will ask.",
            show_default="the model writes some",
        ),
    ] = None,
    minutes: Annotated[float, typer.Option(help="How long it may take.", min=1, max=10080)] = 45.0,
    tokens: Annotated[
        int, typer.Option(help="How much the model writes for its head to learn from.", min=20_000)
    ] = 400_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same texts.", min=0)] = 0,
) -> None:
    """Make a draft head, which guesses what a packed model will say.

    The model writes texts, and a small network learns to continue them from the model's own state.
    Guesses are checked, and change no text; how much faster they make it is said at the end. From
    then on `strop generate` and `chat` use the head. After an interruption, Ctrl-C say, the same
    command goes on where it was. Needs PyTorch.

    [bold]Examples[/bold]

      strop draft small

      strop draft small --prompts mine.txt --minutes 90
    """
    from strop.data import read_text
    from strop.distillation import make_draft

    texts = None
    if prompts:
        texts = [line for line in read_text(prompts).splitlines() if line.strip()]
    report = make_draft(model, output, texts, minutes, tokens, seed)
    for index, rate in enumerate(report.acceptance, start=1):
        print(
            f"guess {index}: {rate:.1%} right if those before it were (n = {rate.n} tokens of "
            "answers to prompts that it did not learn from, chosen greedily)"
        )
    print(
        f"a guess takes {1e3 * report.guess_seconds:.2f} ms, a pass over one token "
        f"{1e3 * report.pass_seconds[0]:.2f} ms"
    )
    print(f"expected: {report.speedup:.2f} times as fast, {report.length} guesses at a time")
    say("measure it:  strop verify, strop generate --drafter none")
