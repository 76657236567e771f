"""Decide what to guess and how far, if at all: what gives the most tokens per second.

A pass over the last token and k guesses takes `seconds[k]`, as measured on this machine, besides
what the guesses take. It gives 1 + a1 + a1 a2 + ... + a1...ak tokens, where aj is how often guesses
of the kind of the j-th were right when all before them were. Guessing pays where the quotient is
better than that of a pass without.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from time import perf_counter
from typing import Any

from strop import _native
from strop.console import say
from strop.data import read_json, sha256_json, write_json
from strop.decoding.drafters import Drafter
from strop.decoding.lookup import Lookup
from strop.decoding.sampling import Sampling
from strop.errors import StropError, unknown_name
from strop.models.cache import cache_directory
from strop.models.interface import Model
from strop.models.machine import thread_count

DRAFTERS = ("auto", "lookup", "none")  #: what a user may choose

MOST_ROWS = 16  #: of a pass: the last token and up to 15 guesses
MEASURED_ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
MEASURING_SECONDS = 0.3
CONTEXT = 64  # tokens before the rows that are measured
GAIN = 1.03  #: how much better than none guesses have to look: to be wrong costs more than it gives
LEAST_REACH = 0.02  # chance that a guess is reached below which those after it do not matter
PRIOR_WEIGHT = 4.0  # guesses that a prior counts for
MEMORY = 64  # guesses of a kind that are remembered: older ones fade


class Rate:
    """How often guesses of a kind are right."""

    def __init__(self, prior: float) -> None:
        self.right = prior * PRIOR_WEIGHT
        self.all = PRIOR_WEIGHT

    def add(self, right: bool) -> None:
        """Count a guess."""
        if self.all > MEMORY:
            self.right *= 1 - 1 / MEMORY
            self.all *= 1 - 1 / MEMORY
        self.right += right
        self.all += 1

    @property
    def mean(self) -> float:
        """Return the share."""
        return self.right / self.all


@dataclass(frozen=True)
class Draft:
    """Guesses for the next tokens, to be checked in one pass."""

    tokens: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()
    drafter: str | None = None


NOTHING = Draft()


class Planner:
    """Chooses drafts for one model, and learns from what became of them."""

    def __init__(self, seconds: Sequence[float], drafters: Sequence[Drafter]) -> None:
        """Take the seconds of a pass over 1, 2, ... rows."""
        self.seconds = list(seconds)
        self.drafters = list(drafters)
        self.rates = {drafter.name: [Rate(p) for p in drafter.priors] for drafter in drafters}
        self.first: dict[str, tuple[int, int]] = {}  # what each drafter guesses for the next token

    def start(self, prompt: Sequence[int], sampling: Sampling) -> None:
        """Begin a text."""
        self.first = {}
        for drafter in list(self.drafters):
            self.safely(drafter, drafter.start, prompt, sampling)

    def draft(self, limit: int) -> Draft:
        """Return the guesses that are worth checking, at most `limit`."""
        best, best_speed = NOTHING, GAIN / self.seconds[0]
        self.first = {}
        limit = min(limit, len(self.seconds) - 1)
        for drafter in list(self.drafters):
            guesses = self.safely(drafter, self.explore, drafter, limit, best_speed)
            if guesses is not None and guesses[1] > best_speed:
                best, best_speed = guesses
        return best

    def explore(self, drafter: Drafter, limit: int, least: float) -> tuple[Draft, float]:
        """Return the draft of one drafter that gives the most tokens per second, and how many."""
        rates = self.rates[drafter.name]
        tokens: list[int] = []
        kinds: list[int] = []
        reach = expected = 1.0
        length, speed = 0, 0.0
        for token, kind in islice(drafter.propose(), limit):
            tokens.append(token)
            kinds.append(kind)
            reach *= rates[kind].mean
            expected += reach
            now = expected / (self.seconds[len(tokens)] + len(tokens) * drafter.seconds)
            if now > speed:
                length, speed = len(tokens), now
            if reach < LEAST_REACH:
                break
        if tokens:
            self.first[drafter.name] = (tokens[0], kinds[0])
        return Draft(tuple(tokens[:length]), tuple(kinds[:length]), drafter.name), speed

    def learn(self, draft: Draft, chosen: Sequence[int]) -> None:
        """Take the tokens that a pass gave: those of the draft that were right, and one more."""
        for name, (token, kind) in self.first.items():
            self.rates[name][kind].add(token == chosen[0])
        if draft.drafter in self.rates:
            rates = self.rates[draft.drafter]
            later = zip(draft.tokens[1:], draft.kinds[1:], chosen[1:], strict=False)
            for token, kind, found in later:
                rates[kind].add(token == found)
        for drafter in list(self.drafters):
            self.safely(drafter, drafter.extend, chosen)

    def safely(self, drafter: Drafter, call: Any, *arguments: Any) -> Any:
        """Call a drafter; go on without it if it fails."""
        try:
            return call(*arguments)
        except Exception as error:
            say(f"drafter {drafter.name} failed, going on without it: {error!r:.200}")
            self.drafters.remove(drafter)
            self.first.pop(drafter.name, None)
            return None


def pass_seconds(model: Model) -> list[float]:
    """Measure a pass over 1 to MOST_ROWS rows: for each the fastest of some, in turns.

    What lies between MEASURED_ROWS is interpolated. Takes MEASURING_SECONDS, or one turn.
    """
    rows = [count for count in MEASURED_ROWS if count < model.context_length]
    session = model.session()
    session.forward([0] * min(CONTEXT, model.context_length - rows[-1]), last=1)
    length = session.length
    best = dict.fromkeys(rows, math.inf)
    until = perf_counter() + MEASURING_SECONDS
    while math.isinf(best[rows[-1]]) or perf_counter() < until:
        for count in rows:
            start = perf_counter()
            session.forward([0] * count)
            best[count] = min(best[count], perf_counter() - start)
            session.truncate(length)
    seconds = [best[1]]
    for low, high in pairwise(rows):
        step = max(0.0, best[high] - seconds[-1]) / (high - low)
        seconds += [seconds[-1] + step * (index + 1) for index in range(high - low)]
    return seconds


def known_pass_seconds(model: Model) -> list[float]:
    """Return `pass_seconds`, measured once for a model and a machine and kept in the cache."""
    kv = getattr(model, "kv", None)
    where = [platform.node(), thread_count(), _native.instruction_set()]
    key = sha256_json([model.fingerprint, model.backend, kv, *where, MEASURED_ROWS])
    note = cache_directory() / "passes" / f"{key}.json"
    if note.is_file():
        seconds: list[float] = read_json(note)
        return seconds
    seconds = pass_seconds(model)
    with suppress(StropError, OSError):  # a cache that cannot be written only costs time
        write_json(note, seconds)
    return seconds


def planner_for(model: Model, drafter: str = "auto") -> Planner | None:
    """Return what guesses for a model: "lookup", "none", or "auto", which takes what cannot hurt.

    That is lookup on the native engine. On others logits depend on the number of rows, if little,
    so that guesses could change a text where two tokens are almost equally likely. Raises
    StropError for another name.
    """
    if drafter not in DRAFTERS:
        raise unknown_name("drafter", drafter, DRAFTERS)
    if drafter == "none" or (drafter == "auto" and model.backend != "native"):
        return None
    return Planner(known_pass_seconds(model), [Lookup()])
