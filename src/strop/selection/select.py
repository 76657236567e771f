"""Choose rows by their scores, and say what became of every other.

OUTPUT/rows.jsonl       prompt and completion of the rows that were chosen, the best first
OUTPUT/kept.jsonl       the same rows as they were read, with their scores
OUTPUT/dropped.jsonl    the others, each with its reason
OUTPUT/rejected.jsonl   rows that could not be read
OUTPUT/report.md        what changed: lengths, categories, scores, rows at the border
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from strop.data import sha256_file, sha256_json, write_rows, write_text
from strop.data.duplicates import repeated
from strop.data.instructions import (
    Instruction,
    read_instructions,
    report_unread,
    shown,
    unique,
)
from strop.errors import StropError, unknown_name
from strop.models import load
from strop.models.identity import model_identity
from strop.selection.diversity import Indices, distinct, facility_location, k_center
from strop.selection.embed import Embeddings, embed
from strop.selection.report import report
from strop.stage import REJECTED, ROWS, Facts, rows_path, run_stage

KEPT, DROPPED, REPORT = "kept.jsonl", "dropped.jsonl", "report.md"
RANDOM = "random"


@dataclass(frozen=True)
class SelectConfig:
    """What to choose; a row is chosen that no rule drops."""

    #: what ranks rows: a score, highest first; -NAME lowest first; a*b a product; random, k-center
    #: or facility-location
    by: str = RANDOM
    keep: int = 0  #: rows to keep; 0: all that the rules leave
    least: Mapping[str, float] = field(default_factory=dict)  #: score -> drop rows below
    most: Mapping[str, float] = field(default_factory=dict)  #: score -> drop rows above
    per_category: int = 0  #: rows to keep of a category, at most; 0: no quota
    duplicates: bool = False  #: whether rows that nearly repeat a better one are kept
    distinct: float = 1.0  #: drop rows whose cosine to one that is kept is larger; 1: none
    model: str = ""  #: that embeds rows, for distinct, k-center and facility-location
    seed: int = 0  #: of random choices, and of the order of equal scores

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.keep < 0 or self.per_category < 0:
            raise StropError("numbers of rows must not be negative")
        for name, value in [*self.least.items(), *self.most.items()]:
            if not math.isfinite(value):
                raise StropError(f"the bound of {name} must be a number, not {value}")
        if not -1.0 < self.distinct <= 1.0:
            raise StropError(f"distinct is a cosine, above -1 and at most 1, not {self.distinct}")
        if self.by.startswith("-") and not factors(self.by.removeprefix("-")):
            raise StropError(f"{self.by}: only a score can be turned round")
        if self.embeds and not self.model:
            what = self.by if self.by in SPREADS else "distinct"
            raise StropError(
                f"{what} needs a model that embeds rows (--model, in a trial --embedder)"
            )

    @property
    def embeds(self) -> bool:
        """Tell whether rows are to be embedded."""
        return self.distinct < 1.0 or self.by in SPREADS


Dropped = dict[str, str]  #: key of a row -> why it is not chosen


def select(
    data: Path, output: Path, config: SelectConfig | None = None, work: Path | None = None
) -> Facts:
    """Choose rows of a file, by the scores that `rate` and `score` gave them.

    A row without a score that is asked for is dropped, never given a default. Raises StropError for
    scores that no row has, and if nothing is left.
    """
    config = config or SelectConfig()
    path = rows_path(data, output)
    inputs = {"data": sha256_file(path)}
    if config.embeds:
        inputs["model"] = model_identity(config.model)

    def make(directory: Path, place: Path) -> Facts:
        records = read_instructions(path)
        rows = unique(records.rows, path)
        check_scores(rows, config)
        kept, dropped = chosen(rows, config, place)
        if not kept:
            reason, count = Counter(dropped.values()).most_common(1)[0]
            raise StropError(f"{path}: no row is left; of {len(rows)}, {count}: {reason}")
        report_unread(records, directory / REJECTED)
        write_rows(
            directory / ROWS,
            ({"prompt": one.prompt, "completion": one.completion} for one in kept),
        )
        write_rows(directory / KEPT, (one.row for one in kept))
        write_rows(
            directory / DROPPED,
            ({**one.row, "reason": dropped[one.key]} for one in rows if one.key in dropped),
        )
        facts = {
            "rows": len(rows),
            "kept": len(kept),
            "rejected": len(records.rejected),
            "repeated": len(records.rows) - len(rows),
            "dropped": dict(Counter(map(general, dropped.values())).most_common()),
        }
        write_text(directory / REPORT, report(rows, kept, dropped, config.by, facts))
        return facts

    return run_stage("select", output, asdict(config), inputs, make, work)


def chosen(
    rows: Sequence[Instruction], config: SelectConfig, work: Path
) -> tuple[list[Instruction], Dropped]:
    """Return the rows that are kept, best first, and why each other is not."""
    dropped: Dropped = {}
    left = list(rows)
    for rule in (without_scores, out_of_bounds, repeats):
        reasons = rule(left, config)
        dropped |= reasons
        left = [one for one in left if one.key not in reasons]
    ranked = in_order(left, config)
    if config.embeds and ranked:
        ranked, reasons = spread(ranked, config, work)
        dropped |= reasons
    kept: list[Instruction] = []
    counts: Counter[str | None] = Counter()
    for one in ranked:
        if config.per_category and counts[one.category] >= config.per_category:
            dropped[one.key] = f"category {one.category or 'none'} is full"
        elif config.keep and len(kept) >= config.keep:
            dropped[one.key] = "beyond the budget"
        else:
            kept.append(one)
            counts[one.category] += 1
    return kept, dropped


def spread(
    ranked: Sequence[Instruction], config: SelectConfig, work: Path
) -> tuple[list[Instruction], Dropped]:
    """Return rows in an order by which they differ, and drop those that differ too little."""
    # By their keys, so that what was embedded is found again, however rows are ranked.
    by_key = {one.key: (one.prompt, one.completion) for one in ranked}
    place = {key: number for number, key in enumerate(sorted(by_key))}
    folder = work / sha256_json([config.model, *place])[:16]
    every = embed(load(config.model), [by_key[key] for key in place], folder)
    rows = every[[place[one.key] for one in ranked]]
    order: Sequence[int] = range(len(ranked))
    if config.by in SPREADS:
        # Rules that come later take rows out, and the next in the order follow.
        whole = not config.keep or config.per_category or config.distinct < 1.0
        count = len(ranked) if whole else min(config.keep, len(ranked))
        first = SPREADS[config.by](rows, count).tolist()
        taken = set(first)
        order = [*first, *(place for place in order if place not in taken)]
    dropped: Dropped = {}
    if config.distinct < 1.0:
        kept, like = distinct(rows, order, config.distinct)
        order = kept.tolist()
        dropped = {ranked[a].key: f"is like {ranked[b].key[:12]}" for a, b in like.items()}
    return [ranked[place] for place in order], dropped


#: Orders by which rows differ, over their embeddings and a number of rows
SPREADS: dict[str, Callable[[Embeddings, int], Indices]] = {
    "k-center": lambda rows, count: k_center(rows, count, first=0),
    "facility-location": facility_location,
}


def without_scores(rows: Sequence[Instruction], config: SelectConfig) -> Dropped:
    """Drop rows that lack a score which is asked for."""
    found: Dropped = {}
    for one in rows:
        lacking = [name for name in needed(config) if name not in one.scores]
        if lacking:
            found[one.key] = f"has no {lacking[0]}"
    return found


def out_of_bounds(rows: Sequence[Instruction], config: SelectConfig) -> Dropped:
    """Drop rows whose scores are too low or too high."""
    found: Dropped = {}
    for one in rows:
        for name, bound in config.least.items():
            if one.scores[name] < bound:
                found[one.key] = f"{name} below {bound:g}"
        for name, bound in config.most.items():
            if one.scores[name] > bound:
                found[one.key] = f"{name} above {bound:g}"
    return found


def repeats(rows: Sequence[Instruction], config: SelectConfig) -> Dropped:
    """Drop rows that nearly repeat one that is ranked before them."""
    if config.duplicates:
        return {}
    ranked = in_order(rows, config)
    earlier = repeated([f"{shown(one.prompt)}\n{one.completion}" for one in ranked])
    return {
        one.key: f"repeats {ranked[place].key[:12]}"
        for one, place in zip(ranked, earlier, strict=True)
        if place is not None
    }


def in_order(rows: Sequence[Instruction], config: SelectConfig) -> list[Instruction]:
    """Return rows by what ranks them, the best first; equal ones in random order."""
    shuffled = sorted(rows, key=lambda one: sha256_json([config.seed, one.key]))
    if not factors(config.by):
        return shuffled
    return sorted(shuffled, key=rank(config.by), reverse=True)


def rank(by: str) -> Callable[[Instruction], float]:
    """Return the function that ranks rows: a score, one times others, or its negative."""
    sign = -1.0 if by.startswith("-") else 1.0
    names = factors(by)
    return lambda one: sign * math.prod(float(one.scores[name]) for name in names)


def factors(by: str) -> list[str]:
    """Return the names of the scores in what ranks rows."""
    if by == RANDOM or by in SPREADS:
        return []
    return [name.strip() for name in by.removeprefix("-").split("*")]


def needed(config: SelectConfig) -> list[str]:
    """Return the scores that a row must have."""
    return list(dict.fromkeys([*config.least, *config.most, *factors(config.by)]))


def check_scores(rows: Sequence[Instruction], config: SelectConfig) -> None:
    """Raise StropError for scores that no row has."""
    have = dict.fromkeys(name for one in rows for name in one.scores)
    for name in needed(config):
        if name not in have:
            raise unknown_name("score", name, [*have, RANDOM, *SPREADS])


def spelled(facts: Facts) -> str:
    """Say what was chosen."""
    lines = [f"{facts['kept']} of {facts['rows']} rows kept"]
    lines += [f"{count:>7} dropped: {reason}" for reason, count in facts["dropped"].items()]
    if facts["repeated"]:
        lines.append(f"{facts['repeated']:>7} left out: exact repeats of other rows")
    return "\n".join(lines)


def general(reason: str) -> str:
    """Return a reason without what is of one row only."""
    return re.sub(r"^(repeats|is like) \w+$", r"\1 another row", reason)


def length_matched(lengths: Sequence[float], wanted: Sequence[float], seed: int) -> list[int]:
    """Choose as many rows at random as `wanted` has lengths, of nearly the same lengths.

    Each wanted length takes the row of the nearest length that is left, in random order. Returns
    indices. Raises StropError for more than there are.
    """
    if len(wanted) > len(lengths):
        raise StropError(f"{len(wanted)} rows are wanted of {len(lengths)}")
    source = random.Random(seed)
    ties = np.array([source.random() for _ in lengths])
    order = np.lexsort((ties, np.asarray(lengths, dtype=np.float64)))
    sizes = np.asarray(lengths, dtype=np.float64)[order]
    free = np.ones(len(order), dtype=bool)
    found = []
    for length in source.sample(list(wanted), len(wanted)):
        distance = np.where(free, abs(sizes - length), np.inf)
        near = np.flatnonzero(distance == distance.min())
        place = int(near[source.randrange(len(near))])
        free[place] = False
        found.append(int(order[place]))
    return found
