"""Which runs tell whether choosing helps: what each selector chooses, and random rows beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from strop.data import prompt_key, sha256_json
from strop.data.instructions import Instruction, read_instructions, report_unread, unique
from strop.errors import StropError
from strop.selection.select import RANDOM, SelectConfig, check_scores, chosen, length_matched
from strop.selection.subset import Item, check_tested, in_order, items_of, split
from strop.stage import Facts, rows_path
from strop.training.network import Source
from strop.training.schedule import check_seed

#: Rows that a selector chooses; random ones whose answers are as long; more random ones
CHOSEN, MATCHED, MORE = "chosen", "length-matched", "more"
MOST_RUNS = 1000  #: on random rows, and of a selector
MOST_TIMES = 1000  #: as many random rows as are chosen


@dataclass(frozen=True)
class Runs:
    """How many runs are made."""

    parts: int = 3  #: that rows are dealt into: runs of each selector
    random: int = 5  #: runs on random rows
    more: float = 0.0  #: times the rows of other random runs: what a selector's cost buys; 0: none
    seed: int = 0  #: of the parts, of what is random, and of the training

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if min(self.parts, self.random) < 2:
            raise StropError("at least two parts and two runs on random rows are needed")
        if max(self.parts, self.random) > MOST_RUNS:
            raise StropError(f"at most {MOST_RUNS} parts and runs on random rows are possible")
        check_seed(self.seed)
        if self.more and not 1 < self.more <= MOST_TIMES:
            raise StropError(
                f"more random rows are more than 1 times as many, and up to {MOST_TIMES} times, "
                f"not {self.more}"
            )


@dataclass(frozen=True)
class Job:
    """One run."""

    selector: str  #: its name, or random
    which: str  #: chosen by it, length-matched to that, or more of the random ones
    seed: int  #: of the training, and of what is random about the rows
    items: tuple[Item, ...]

    @cached_property
    def name(self) -> str:
        """Return what the run is called, and what its directory is."""
        keys = [one.key for one, _ in self.items]
        return sha256_json([self.seed, keys])[:16]

    @property
    def kind(self) -> str:
        """Return what its rows are."""
        return {
            CHOSEN: self.selector,
            MATCHED: f"length-matched to {self.selector}",
            MORE: f"more {self.selector}",
        }[self.which]

    @property
    def tokens(self) -> int:
        """Return the tokens that the run reads in an epoch."""
        return sum(len(item.prompt) + len(item.target) for _, item in self.items)

    @property
    def facts(self) -> Facts:
        """Return what the run learns from."""
        answers = [len(item.target) for _, item in self.items]
        return {
            "selector": self.selector,
            "which": self.which,
            "seed": self.seed,
            "rows": len(self.items),
            "tokens": self.tokens,
            "answer_tokens": float(np.mean(answers)),
        }


def budget(selectors: Mapping[str, SelectConfig]) -> int:
    """Return how many rows all selectors keep of a part."""
    if not selectors:
        raise StropError("which selectors? Name at least one")
    if RANDOM in selectors:
        raise StropError("random rows are there already: name selectors to compare with them")
    [keep, *others] = sorted({one.keep for one in selectors.values()})
    if others or not keep:
        raise StropError("say how many rows to keep, the same number for all selectors")
    return keep


def parted(
    rows: Sequence[Instruction], tests: Path | None, source: Source, unread: Path
) -> tuple[list[Item], list[Item]]:
    """Return what is trained on, and what is tested on: rows with other prompts.

    Rows of the tests that cannot be used go to the file `unread`.
    """
    if tests is None:
        return split(items_of(rows, source))
    other = rows_path(tests)
    records = read_instructions(other)
    report_unread(records, unread)
    tested = items_of(unique(records.rows, other), source)
    check_tested(tested)
    asked = {prompt_key(one.prompt) for one, _ in tested}
    every = items_of(rows, source)
    training = [item for item in every if prompt_key(item[0].prompt) not in asked]
    if not training:
        raise StropError(f"{other}: has all prompts of the rows: none is left to train on")
    return training, tested


def planned(
    items: Sequence[Item],
    selectors: Mapping[str, SelectConfig],
    runs: Runs,
    keep: int,
    work: Path,
) -> Iterator[Job]:
    """Yield the runs: random rows first, then what each selector chooses of each part."""
    dealt = in_order(items, runs.seed)
    every = [dealt[number :: runs.parts] for number in range(runs.parts)]
    counts = {CHOSEN: (runs.random, keep), MORE: (runs.parts, round(keep * runs.more))}
    if runs.more and counts[MORE][1] <= keep:
        raise StropError(f"{runs.more:g} times {keep} rows are no more rows: name a larger factor")
    for which, (count, size) in counts.items():
        for number in range(count if size else 0):
            plain = SelectConfig(by=RANDOM, keep=size, seed=runs.seed + number)
            part = every[number % runs.parts]
            yield Job(RANDOM, which, plain.seed, picked(RANDOM, part, plain, work))
    for name, one in selectors.items():
        check_scores([row for row, _ in items], one)
        for seed, part in enumerate(every, start=runs.seed):
            own = picked(name, part, one, work)
            yield Job(name, CHOSEN, seed, own)
            others = picked(RANDOM, part, SelectConfig(by=RANDOM, seed=seed), work)
            lengths, wanted = ([len(item.target) for _, item in some] for some in (others, own))
            places = length_matched(lengths, wanted, seed)
            yield Job(name, MATCHED, seed, tuple(others[place] for place in places))


def picked(name: str, part: Sequence[Item], config: SelectConfig, work: Path) -> tuple[Item, ...]:
    """Return what a selector keeps of a part. Raises StropError where that is too little."""
    found = {row.key: item for row, item in part}
    kept, _ = chosen([row for row, _ in part], config, work)
    if len(kept) < config.keep:
        raise StropError(
            f"{name} leaves {len(kept)} of the {len(part)} rows of a part: fewer than "
            f"{config.keep}; keep fewer, or deal them into fewer parts"
        )
    return tuple((row, found[row.key]) for row in kept)
