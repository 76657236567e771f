"""`strop plan`: what fits into memory, before anything is loaded."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strop.cli.options import Model
from strop.errors import StropError, StropFailure, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from strop.models.fitting import Option
    from strop.models.trial import Measured
    from strop.training.fitting import Candidate

TASKS = ("tune", "generate")
WIDTH = 100  # columns of the table where standard output is not a terminal
CONTEXT = 2048  # tokens, if nothing is said and the model has as many

IN_FILE = "; with less, the engine reads packed weights from their file for every token, slowly"


def plan(
    model: Model,
    task: Annotated[str, typer.Option(help="What it is for: tune or generate.")] = "tune",
    memory: Annotated[
        str | None,
        typer.Option(
            help="What there is: 4GB, 3.5GiB, 800MB ...",
            show_default="of what is available 0.6 to tune, 0.8 to generate",
        ),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="To tune: of the longest prompts.")] = 350,
    completion_tokens: Annotated[int, typer.Option(help="To tune: of each completion.")] = 50,
    completions: Annotated[
        int, typer.Option(help="To tune: for each prompt; 1 for examples, 2 for preferences.")
    ] = 2,
    batch: Annotated[int, typer.Option(min=1, help="To tune: prompts between two updates.")] = 32,
    rank: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="To tune: of the adapters; 0 for all weights.",
            show_default="8, and all weights",
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="To generate: tokens of prompt and answer.", show_default="2048"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run the first that fits for a moment, and measure.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict memory and time of every setting, and name the first that fits.

    Only config.json and the headers of the weights are read. Memory is that of the whole process,
    at its peak. To tune, the fastest setting comes first; to generate, the most precise.

    [bold]Examples[/bold]

      strop plan smollm2 --task tune --memory 4GB

      strop plan smollm2 --memory 1.2GB --prompt-tokens 150 --completion-tokens 250 --check

      strop plan smollm2 --task generate --memory 400MB --context 4096
    """
    from rich.console import Console

    from strop.models.fitting import options
    from strop.models.machine import available_memory, thread_count
    from strop.models.memory import gigabytes, nothing_fits, read_facts, read_size
    from strop.models.native_backend import RESIDENT_SHARE
    from strop.models.references import resolve
    from strop.training.fitting import SHARE, fitting, probed, reason
    from strop.training.memory import Lengths

    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    share = SHARE if task == "tune" else RESIDENT_SHARE
    budget = int(share * available_memory()) if memory is None else read_size(memory)
    found: Sequence[Candidate | Option]
    if task == "tune":
        base, rank = trained_on(model, rank)
        facts = read_facts(resolve(base))
        lengths = Lengths(prompt_tokens, completion_tokens, completions, batch)
        speeds = probed(facts)
        candidates = fitting(facts, lengths, budget, speeds, rank)
        if base != model:  # an adapter is gone on with on the weights that it is for
            candidates = [one for one in candidates if not one.base]
        found = candidates
        why = reason(candidates[0], candidates, speeds)
    else:
        facts = read_facts(resolve(model))
        tokens = context or min(CONTEXT, facts.architecture.context)
        found = options(facts, tokens, budget, thread_count())
        why = f"{found[0].name}: the most precise that fits"
    first = found[0] if found[0].fits else None
    measured = trial(model, first) if check and first else None
    if as_json:
        rows = [as_values(one) for one in found]
        values = {"model": model, "task": task, "memory_bytes": budget, "settings": rows}
        print(json.dumps(values | {"measured": measured}, indent=2, allow_nan=False))
    else:
        title = f"{model}, {facts.weights:,} weights: {task}, within {gigabytes(budget)}"
        view = table(title, found, task == "tune")
        Console(width=None if sys.stdout.isatty() else WIDTH).print(view)
    if first is None:
        advice = "" if task == "tune" else IN_FILE
        problem = nothing_fits([one.peak for one in found], budget)
        raise StropFailure(f"{model}: {problem}{advice}")
    if not as_json:
        print(why)
        explain(model, first, measured)


def trained_on(model: str, rank: int | None) -> tuple[str, int | None]:
    """Return what is loaded to train a model, and the rank: of an adapter, its base and its own."""
    from strop.models.adapters import adapter_base, adapter_rank, is_adapter

    if not is_adapter(model):
        return model, rank
    path = Path(model).expanduser()
    own = adapter_rank(path)
    if rank not in (None, own):
        raise StropError(f"{model} is an adapter of rank {own}: leave out --rank")
    return adapter_base(path), own


def table(title: str, found: Sequence[Candidate | Option], tuning: bool) -> Table:
    """Lay out settings, one a row; an arrow marks the first that fits."""
    from rich.table import Table

    from strop.models.memory import gigabytes

    view = Table(title=title, title_justify="left")
    view.add_column("setting", no_wrap=True)
    for heading in (
        "tokens at a time" if tuning else "longest context",
        "memory",
        "for a prompt" if tuning else "for a token",
        "fits",
    ):
        view.add_column(heading, justify="right")
    for number, one in enumerate(found):
        view.add_row(
            f"{'->' if not number and one.fits else '  '} {one.name}",
            f"{one.tokens:,}",
            gigabytes(one.peak.total),
            "not known" if one.seconds is None else f"about {duration(one.seconds)}",
            "yes" if one.fits else "no",
        )
    return view


def duration(seconds: float) -> str:
    """Format a time of which two digits are known."""
    if seconds < 1:
        return f"{1e3 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
    return f"{seconds:,.{0 if seconds >= 10 else 1}f} s"


def explain(model: str, first: Candidate | Option, measured: Measured | None) -> None:
    """Print what takes the memory of a setting, what was measured, and how to run it."""
    from strop.models.memory import gigabytes

    peak = first.peak
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in peak.parts.items())
    print(f"at its peak ({peak.moment}): {parts}")
    if measured:
        found = measured["peak_bytes"]
        print(
            f"predicted {gigabytes(peak.total)}, measured {gigabytes(found)} "
            f"({peak.total / found - 1:+.1%}); {duration(measured['seconds'])} measured"
        )
    print("run it:")
    for line in commands(model, first):
        print(f"  {line}")


def commands(model: str, first: Candidate | Option) -> list[str]:
    """Return the commands that make use of a setting."""
    lines = []
    if first.base:
        packed = f"{Path(model).name.removesuffix('.gguf')}-{first.base}"
        lines.append(shlex.join(["strop", "pack", model, "--format", first.base, "-o", packed]))
        model = packed
    return [*lines, shlex.join(["strop", *first.arguments(model)])]


def trial(model: str, first: Candidate | Option) -> Measured:
    """Run a setting in a process of its own, on random tokens."""
    from strop.models import pack
    from strop.models.trial import in_fresh_process

    with tempfile.TemporaryDirectory() as directory:
        if first.base:
            packed = Path(directory) / first.base
            pack(model, first.base, packed, {})
            model = str(packed)
        module, settings = first.trial
        return in_fresh_process(module, {"model": model, **settings})


def as_values(one: Candidate | Option) -> dict[str, Any]:
    """Return a setting as JSON values."""
    return {
        "setting": one.name,
        **one.trial[1],
        "base": one.base,
        "tokens": one.tokens,
        "memory_bytes": one.peak.total,
        "moment": one.peak.moment,
        "parts": dict(one.peak.parts),
        "seconds": one.seconds,
        "fits": one.fits,
    }
