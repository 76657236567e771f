"""`strop generate`: continue one prompt."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strop.console import say
from strop.errors import StropError

if TYPE_CHECKING:
    from strop.decoding import Delta, Sampling, Statistics
    from strop.models import Tokenizer

SAMPLING = "Sampling"  # heading of these options in --help

#: The sampling options, shared with `strop chat`. None stands for the default of
#: strop.decoding.Sampling, which show_default repeats: --help must not import it.
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Lower is safer, higher more varied; 0 always takes the most likely token.",
        show_default="0.5",
        rich_help_panel=SAMPLING,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        help="Choose among this many of the most likely tokens; 0: all.",
        show_default="0",
        rich_help_panel=SAMPLING,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Choose among the fewest most likely tokens that hold this probability; 1: all.",
        show_default="1.0",
        rich_help_panel=SAMPLING,
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        help="Choose among tokens at least this fraction as likely as the best one; 0: all.",
        show_default="0.1",
        rich_help_panel=SAMPLING,
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        help="Above 1, tokens of the text so far become less likely: small models loop without.",
        show_default="1.05",
        rich_help_panel=SAMPLING,
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        help="End before this text; can be repeated. A line end is $'\\n' in most shells.",
        rich_help_panel=SAMPLING,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        help="Generate at most this many tokens.", show_default="512", rich_help_panel=SAMPLING
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="The same seed gives the same text.", show_default="0", rich_help_panel=SAMPLING
    ),
]
System = Annotated[str | None, typer.Option(help="Instruction that comes before the conversation.")]


def generate(
    model: Annotated[
        str,
        typer.Argument(
            help="An alias (smollm2), a model directory, a .gguf file or a hub id.", metavar="MODEL"
        ),
    ],
    prompt: Annotated[
        str, typer.Argument(help="The text; - reads it from standard input.", metavar="PROMPT")
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    system: System = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    stop: Stop = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
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
    from strop.decoding import collect, prompt_tokens
    from strop.decoding import generate as decode
    from strop.models import load

    sampling = chosen_sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        max_tokens=max_tokens,
        seed=seed,
    )
    text = read_prompt() if prompt == "-" else prompt
    loaded = load(model)
    deltas = decode(loaded, prompt_tokens(loaded.tokenizer, text, system, raw), sampling)
    say(sent_as(loaded.tokenizer, text, raw))
    if as_json:
        completion = collect(deltas)
        print(json.dumps(completion.to_json(), ensure_ascii=False))
        say(speed(completion.statistics))
        return
    for delta in deltas:
        show(delta)
    print(flush=True)
    if delta.statistics:
        say(f"{speed(delta.statistics)}; {ending(delta, sampling)}")


def chosen_sampling(**options: Any) -> Sampling:
    """Build the settings from the options that were given; the others keep their defaults."""
    from strop.decoding import Sampling

    return Sampling(**{name: value for name, value in options.items() if value not in (None, [])})


def read_prompt() -> str:
    """Read the prompt from standard input, without the line end that a shell puts after it."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise StropError(f"standard input: not UTF-8 text (byte {error.start})") from error


def sent_as(tokenizer: Tokenizer, text: str, raw: bool) -> str:
    """Say what `strop.decoding.prompt_tokens` makes of the prompt."""
    if not text:
        return "empty prompt: generating from the beginning-of-text token"
    if raw:
        return "prompt continued as it is"
    if tokenizer.template is None:
        return "prompt continued as it is (the model has no chat template)"
    return "prompt sent as a chat message (--raw continues it as it is)"


def show(delta: Delta) -> None:
    """Print a piece of text at once."""
    sys.stdout.write(delta.text)
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
