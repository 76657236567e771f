"""`strop generate`: continue one prompt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strop.cli.options import (
    Backend,
    Chosen,
    Drafting,
    KeyValues,
    Model,
    System,
    with_sampling,
)
from strop.console import say
from strop.errors import StropError

if TYPE_CHECKING:
    from strop.decoding import Delta, Memory, Planner, Sampling, Statistics
    from strop.models import Tokenizer


UNSAFE = (
    "with this backend guesses could change the text where two tokens are almost equally likely; "
    "--drafter lookup guesses all the same"
)


@with_sampling
def generate(
    model: Model,
    prompt: Annotated[
        str, typer.Argument(help="The text; - reads it from standard input.", metavar="PROMPT")
    ],
    sampling: Chosen,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    system: System = None,
    backend: Backend = None,
    kv: KeyValues = None,
    drafter: Drafting = None,
    prediction: Annotated[
        Path | None,
        typer.Option(help="A text file that the answer is expected to repeat in part."),
    ] = None,
    remember: Annotated[
        bool,
        typer.Option(
            "--remember", help="Guess from the texts of earlier runs, and keep this one for later."
        ),
    ] = False,
    color: Annotated[
        bool, typer.Option("--color", help="Show tokens that were guessed right in green.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object: text, tokens, why it ended, cost."),
    ] = False,
) -> None:
    """Generate text from a prompt, shown as it is written.

    The same command gives the same text; another --seed gives another.
    If the model has a chat template, the prompt is sent as a user's message.

    [bold]Examples[/bold]

      strop generate smollm2 "Why is the sky blue?"

      strop generate smollm2 "Name a fruit." --temperature 0 --max-tokens 20

      strop generate smollm2 "Once upon a time" --raw --stop "The end" --seed 7

      cat letter.txt | strop generate smollm2 - --system "Summarise this." --json
    """
    from strop.data import read_text
    from strop.decoding import Memory, Sampling, collect, planner_for, prompt_tokens
    from strop.decoding import generate as decode
    from strop.models import load

    settings = Sampling(**sampling)
    text = read_prompt() if prompt == "-" else prompt
    loaded = load(model, backend, kv)
    memory = Memory(loaded.tokenizer) if remember else None
    expected = memory.read() if memory else []
    if prediction:
        expected += loaded.tokenizer.encode(read_text(prediction), special=False)
    planner = planner_for(loaded, drafter or "auto", expected)
    if planner is None and expected:
        given = "--prediction" if prediction else "--remember"
        reason = UNSAFE if drafter in (None, "auto") else "--drafter none"
        say(f"{given} is not used: {reason}")
    tokens = prompt_tokens(loaded.tokenizer, text, system, raw)
    deltas = decode(loaded, tokens, settings, planner=planner)
    say(sent_as(loaded.tokenizer, text, raw))
    if as_json:
        completion = collect(deltas)
        print(json.dumps(completion.to_json(), ensure_ascii=False), flush=True)
        keep(memory, [*tokens, *completion.tokens])
        say(speed(completion.statistics))
        explain(planner)
        return
    written = []
    for delta in deltas:
        show(delta, color)
        written += [] if delta.token is None else [delta.token]
    print(flush=True)
    keep(memory, [*tokens, *written])
    if delta.statistics:
        say(f"{speed(delta.statistics)}; {ending(delta, settings)}")
    explain(planner)


def keep(memory: Memory | None, tokens: list[int]) -> None:
    """Keep a text for later runs, if that is asked for; where it cannot be, that is said."""
    if memory:
        try:
            memory.add(tokens)
        except (StropError, OSError) as error:
            say(f"this text is not remembered: {error}")


def explain(planner: Planner | None) -> None:
    """Say what the choices of guesses rested on."""
    if planner:
        say(f"guesses: {'; '.join(planner.why())}")


def read_prompt() -> str:
    """Read the prompt from standard input, without the line end that a shell puts after it."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise StropError(f"standard input: not UTF-8 text (byte {error.start})") from error


def sent_as(tokenizer: Tokenizer, text: str, raw: bool) -> str:
    """Say what `strop.decoding.prompt_tokens` makes of the prompt."""
    if not text:
        return "empty prompt: generating from the token that texts begin after"
    if raw:
        return "prompt continued as it is"
    if tokenizer.template is None:
        return "prompt continued as it is (the model has no chat template)"
    return "prompt sent as a chat message (--raw continues it as it is)"


def show(delta: Delta, color: bool = False) -> None:
    """Print a piece of text at once; with `color` in green where a guess was right."""
    green = color and delta.drafter and delta.text
    sys.stdout.write(f"\x1b[32m{delta.text}\x1b[0m" if green else delta.text)
    sys.stdout.flush()


def speed(cost: Statistics) -> str:
    """Describe what a generation cost in one line."""
    read = cost.prompt_tokens - cost.reused_tokens
    parts = [f"prompt: {read} tokens in {cost.prefill_seconds:.2f} s ({cost.prefill_speed:.0f}/s)"]
    if cost.reused_tokens:
        parts[0] += f", {cost.reused_tokens} from the cache"
    parts.append(f"answer: {cost.generated_tokens} tokens in {cost.decode_seconds:.2f} s")
    if cost.decode_speed is not None:
        parts[1] += f" ({cost.decode_speed:.0f}/s)"
    for name, count in cost.guessed.items():
        parts.append(f"{name}: {cost.accepted[name]} of {count} guesses right")
    if cost.guessed and cost.tokens_per_pass is not None:
        parts.append(f"{cost.tokens_per_pass:.2f} tokens a pass")
    return "; ".join(parts)


def ending(delta: Delta, sampling: Sampling) -> str:
    """Say in words why a generation ended."""
    return {
        "end": "the model ended it",
        "stop": "ended before a stop string",
        "length": f"ended after --max-tokens {sampling.max_tokens}",
        "context": "ended because the model's context is full",
        None: "broken off",
    }[delta.finish_reason]
