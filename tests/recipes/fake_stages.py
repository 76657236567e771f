"""Small stages for testing recipes and run directories; also a program that runs them.

python fake_stages.py RECIPE DIRECTORY
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from strop.data import read_text
from strop.errors import StropError
from strop.recipes import STAGES, Context, Finished, Headline, Output, Section, Stage
from strop.recipes.options import ModelReference, TextFile
from strop.recipes.stage import Metrics

EXECUTED: list[str] = []  # kinds in the order in which they did their work


@dataclass(frozen=True)
class MakeOptions:
    lines: int = 20  #: how many
    pause: float = 0.0  #: seconds after each line
    words: tuple[str, ...] = ("a", "b")  #: to choose from
    ratio: float = 1.0  #: for tests of numbers
    flag: bool = False  #: for tests of truth values
    labels: dict[str, int] | None = None  #: for tests of mappings
    fail: bool = False  #: stop with an error


def make(options: MakeOptions, context: Context) -> Metrics:
    """Write random lines, slowly enough to be killed half-way."""
    EXECUTED.append("make")
    chance = random.Random(context.seed)
    with (context.directory / "text.txt").open("w") as stream:
        for _ in range(options.lines):
            stream.write(chance.choice(options.words) + "\n")
            stream.flush()
            time.sleep(options.pause)
    if options.fail:
        raise StropError("asked to fail")
    return {"lines": options.lines}


@dataclass(frozen=True)
class CountOptions:
    text: TextFile  #: what to count
    pause: float = 0.0  #: seconds


def count(options: CountOptions, context: Context) -> Metrics:
    EXECUTED.append("count")
    time.sleep(options.pause)
    return {"letters": len(read_text(Path(options.text)).split())}


@dataclass(frozen=True)
class LoadOptions:
    model: ModelReference  #: only there to be of another type


def section(stages: Sequence[Finished]) -> Section:
    rows = [Headline(s.name, "", str(s.metrics), "", "no more, no less") for s in stages]
    return Section("Numbers", "Something was counted.", headline=tuple(rows))


KINDS: dict[str, Stage] = {
    "make": Stage(
        MakeOptions, make, lambda o: f"{o.lines} lines", section, Output("text.txt", TextFile)
    ),
    "count": Stage(CountOptions, count, lambda o: f"count {o.text}", section),
    "load": Stage(LoadOptions, lambda o, c: {}, lambda o: f"load {o.model}", section),
    "pack": STAGES["pack"],
}

if __name__ == "__main__":
    from strop.recipes import load_recipe, run_recipe

    recipe, directory = map(Path, sys.argv[1:])
    run_recipe(load_recipe(recipe, KINDS), directory, KINDS, tell=lambda m: print(m, flush=True))
