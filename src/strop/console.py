"""What a user sees while work goes on: progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PLAIN_INTERVAL = 10.0  # seconds between progress lines when standard error is not a terminal


def is_first() -> bool:
    """Tell whether this is the only process, or the first of several that train together."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print one line for the user to standard error; results go to standard output instead."""
    if is_first():
        print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: float, unit: str = "") -> Iterator[Callable[[float], None]]:
    """Show the progress of `total` steps; yields a function that advances by some steps.

    `unit` is what a step is called ("tokens", "weights"); "B" is shown as a size in bytes.
    """
    show = bar if sys.stderr.isatty() and is_first() else lines
    with show(label, total, unit) as advance:
        yield advance


@contextmanager
def bar(label: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """Show progress as a bar with rate and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(label, total=total, rate="")
        start = time.monotonic()
        done = 0.0

        def advance(steps: float) -> None:
            nonlocal done
            done += steps
            rate = done / max(time.monotonic() - start, 1e-6)
            display.update(task, advance=steps, rate=f"{quantity(rate, unit)}/s")

        yield advance


@contextmanager
def lines(label: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """Show progress as a plain line every few seconds, and nothing for short work."""
    start = last = time.monotonic()
    done = 0.0

    def advance(steps: float) -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last < PLAIN_INTERVAL:
            return
        last = now
        rate = done / (now - start)
        left = (total - done) / rate if rate else 0.0
        percent = 100 * done / total if total else 100.0
        say(f"{label}: {percent:.0f}%, {quantity(rate, unit)}/s, {left:.0f} s left")

    yield advance


def quantity(value: float, unit: str) -> str:
    """Format a count with its unit, bytes with a decimal prefix: 12.3 MB, 512 tokens."""
    if unit != "B":
        number = f"{value:.2g}" if 0 < value < 10 and value % 1 else f"{value:,.0f}"
        return f"{number} {unit}".rstrip()
    prefixes = ["", "k", "M", "G", "T"]
    while value >= 1000 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.{1 if prefixes[0] else 0}f} {prefixes[0]}B"
