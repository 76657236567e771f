"""`strop verify`: prove on one's own prompts that guesses change no text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from strop.cli.options import Backend, Chosen, Drafting, KeyValues, Model, with_sampling
from strop.console import progress, say
from strop.errors import StropError, StropFailure

PROMPTS = (
    "List the days of the week, then list them again.",
    "Repeat after me: the quick brown fox jumps over the lazy dog.",
    "Write a Python function that adds two numbers, and a test for it.",
    "Why is the sky blue?",
)


@with_sampling
def verify(
    model: Model,
    sampling: Chosen,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A text file with a prompt in each line.", show_default="four of ours"),
    ] = None,
    backend: Backend = None,
    kv: KeyValues = None,
    drafter: Drafting = None,
) -> None:
    """Check that guesses change no text.

    Each prompt is continued four times by each of two samplings, greedy and the one that is asked
    for: plainly; with guesses where they pay; with any number of them; and with random guesses
    among them. All tokens must be the same. Exits with 1 if one differs.

    [bold]Examples[/bold]

      strop verify small

      strop verify small --prompts mine.txt --temperature 0.8 --max-tokens 200

      strop verify small --drafter nested
    """
    from strop.data import read_text
    from strop.decoding import GREEDY, Planner, Sampling, prompt_tokens
    from strop.decoding.choose import drafters_for
    from strop.decoding.costs import known_costs
    from strop.decoding.verify import Noise, Reckless, compare
    from strop.models import load

    if drafter == "none":
        raise StropError("--drafter none guesses nothing, so there is nothing to verify")
    settings = Sampling(**sampling)
    loaded = load(model, backend, kv)
    texts = list(PROMPTS)
    if prompts:
        texts = [line for line in read_text(prompts).splitlines() if line.strip()]
        if not texts:
            raise StropError(f"{prompts}: no prompts: write one in each line")
    tokens = [prompt_tokens(loaded.tokenizer, text) for text in texts]
    greedy = replace(GREEDY, max_tokens=settings.max_tokens, stop=settings.stop)
    costs = known_costs(loaded)
    drafters = drafters_for(loaded, drafter or "auto", ())
    names = " and ".join(one.name for one in drafters)
    noise = Noise(loaded.vocabulary)
    made: list[Planner] = []

    def kept(planner: Planner) -> Planner:
        made.append(planner)
        return planner

    planners: dict[str, Callable[[], Planner]] = {
        f"{names} where it pays": lambda: kept(Planner(costs, drafters)),
        f"{names}, any number": lambda: kept(Reckless(drafters)),
        f"{names} and noise, any number": lambda: kept(Reckless([*drafters, noise])),
    }
    different = 0
    for name, planner in planners.items():
        with progress(name, 2 * len(tokens), "texts") as advance:
            rows = []
            for row in compare(loaded, tokens, (greedy, settings), planner):
                rows.append(row)
                advance(1)
        wrong = [row for row in rows if row.first_difference is not None]
        different += len(wrong)
        chosen, guessed = sum(row.tokens for row in rows), sum(row.guessed for row in rows)
        print(
            f"{name}: {len(wrong)} of {len(rows)} texts differ ({chosen} tokens; {guessed} "
            f"guesses, {sum(row.accepted for row in rows)} right)"
        )
        for row in wrong:
            say(
                f"  prompt {row.prompt + 1}, temperature {row.temperature:g}: differs from token "
                f"{row.first_difference} on"
            )
    if any(planner.failed for planner in made):
        raise StropFailure("a drafter failed, so not all guesses were checked")
    if different:
        raise StropFailure(f"guesses changed {different} texts")
