"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from strop.errors import StropError

Model = Annotated[
    str,
    typer.Argument(
        help="An alias (smollm2), a model directory, a .gguf file or a hub id.", metavar="MODEL"
    ),
]
System = Annotated[str | None, typer.Option(help="Instruction that comes before the conversation.")]
Backend = Annotated[
    str | None,
    typer.Option(
        help="What computes: native (our engine, for packed models) or torch (PyTorch, float32).",
        show_default="native if packed, else torch",
    ),
]
KeyValues = Annotated[
    str | None,
    typer.Option(
        "--kv",
        help="How the native backend keeps keys and values: fp16, or bfp8 in half the memory.",
        show_default="fp16",
    ),
]

Drafting = Annotated[
    str | None,
    typer.Option(
        "--drafter",
        help="What guesses next tokens, which is faster and changes no text: lookup (from the text "
        "so far), nested (the upper plane of a bfp8n model), the path of a draft head or of a "
        "smaller model, auto (what cannot hurt: lookup, and the model's own head), or none.",
        show_default="auto",
    ),
]

SAMPLING = "Sampling"  # heading of the sampling options in --help

#: The sampling options. None stands for the default of strop.decoding.Sampling, which show_default
#: repeats: --help must not import it.
SAMPLING_OPTIONS: dict[str, Any] = {
    "temperature": Annotated[
        float | None,
        typer.Option(
            help="Lower is safer, higher more varied; 0 always takes the most likely token.",
            show_default="0.5",
            rich_help_panel=SAMPLING,
        ),
    ],
    "top_k": Annotated[
        int | None,
        typer.Option(
            help="Choose among this many of the most likely tokens; 0: all.",
            show_default="0",
            rich_help_panel=SAMPLING,
        ),
    ],
    "top_p": Annotated[
        float | None,
        typer.Option(
            help="Choose among the fewest most likely tokens that hold this probability; 1: all.",
            show_default="1.0",
            rich_help_panel=SAMPLING,
        ),
    ],
    "min_p": Annotated[
        float | None,
        typer.Option(
            help="Choose among tokens at least this fraction as likely as the best one; 0: all.",
            show_default="0.1",
            rich_help_panel=SAMPLING,
        ),
    ],
    "repetition_penalty": Annotated[
        float | None,
        typer.Option(
            help="Above 1, tokens of the text so far become less likely: small models loop "
            "without.",
            show_default="1.05",
            rich_help_panel=SAMPLING,
        ),
    ],
    "stop": Annotated[
        list[str] | None,
        typer.Option(
            help="End before this text; can be repeated. A line end is $'\\n' in most shells.",
            rich_help_panel=SAMPLING,
        ),
    ],
    "max_tokens": Annotated[
        int | None,
        typer.Option(
            help="Generate at most this many tokens.", show_default="512", rich_help_panel=SAMPLING
        ),
    ],
    "seed": Annotated[
        int | None,
        typer.Option(
            help="The same seed gives the same text.", show_default="0", rich_help_panel=SAMPLING
        ),
    ],
}

ENDPOINT = "Endpoint"  # heading of its options in --help

#: How an endpoint is used. None stands for the default of strop.lm.RemoteConfig.
ENDPOINT_OPTIONS: dict[str, Any] = {
    "together": Annotated[
        int | None,
        typer.Option(
            help="Requests to an endpoint at once.",
            show_default="8",
            min=1,
            rich_help_panel=ENDPOINT,
        ),
    ],
    "per_minute": Annotated[
        float | None,
        typer.Option(
            help="Requests a minute, at most; 0: no limit.",
            show_default="0",
            min=0,
            rich_help_panel=ENDPOINT,
        ),
    ],
    "retries": Annotated[
        int | None,
        typer.Option(
            help="How often a request that failed is repeated, after growing pauses.",
            show_default="4",
            min=0,
            rich_help_panel=ENDPOINT,
        ),
    ],
    "timeout": Annotated[
        float | None,
        typer.Option(
            help="Seconds in which an endpoint may say nothing.",
            show_default="60",
            rich_help_panel=ENDPOINT,
        ),
    ],
    "price_in": Annotated[
        float | None,
        typer.Option(
            help="Price of a million tokens that an endpoint reads.",
            show_default="0",
            min=0,
            rich_help_panel=ENDPOINT,
        ),
    ],
    "price_out": Annotated[
        float | None,
        typer.Option(
            help="Price of a million tokens that it writes.",
            show_default="0",
            min=0,
            rich_help_panel=ENDPOINT,
        ),
    ],
}

#: Arguments of strop.decoding.Sampling or strop.lm.RemoteConfig: the options that were given.
Chosen = dict[str, Any]

Command = Callable[..., None]


def with_sampling(command: Command) -> Command:
    """Add the sampling options to a command, which takes those given as its `sampling`."""
    return with_options(command, "sampling", SAMPLING_OPTIONS)


def with_endpoint(command: Command) -> Command:
    """Add the options of endpoints to a command, which takes those given as its `endpoint`."""
    return with_options(command, "endpoint", ENDPOINT_OPTIONS)


def with_options(command: Command, together: str, table: Mapping[str, Any]) -> Command:
    """Add a table of options to a command, which takes those given as one argument, `together`."""
    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.name != together]
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, kind, default=None, annotation=hint) for name, hint in table.items()
    ]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in table}
        chosen = {name: value for name, value in given.items() if value not in (None, [])}
        command(**arguments, **{together: chosen})

    # Typer reads the options off the signature.
    parameters = [*own, *options]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def given_columns(columns: list[str] | None) -> dict[str, str] | None:
    """Read what the data calls its columns."""
    if not columns:
        return None
    found = {}
    for text in columns:
        name, _, source = text.partition("=")
        if not name or not source:
            raise StropError(f"--columns {text}: must be two names, such as prompt=question")
        found[name] = source
    return found


def named_numbers(option: str, given: list[str] | None, wanted: str) -> dict[str, float]:
    """Read what an option that can be repeated gives to names; `wanted` is for the error."""
    found = {}
    for text in given or []:
        name, sign, value = text.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            sign = ""
        if not sign:
            raise StropError(f"{option} {text}: must be {wanted}")
    return found
