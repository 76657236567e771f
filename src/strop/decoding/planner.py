"""Decide what to guess and how far, if at all: what gives the most tokens per second.

A pass over the last token and k guesses takes `seconds[k]`, as measured on this machine, besides
what the guesses take. It gives 1 + a1 + a1 a2 + ... + a1...ak tokens, where aj is how often guesses
of the kind of the j-th were right when all before them were. Guessing pays where the quotient is
better than that of a pass without.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

from strop import _native
from strop.console import say
from strop.data import read_json, sha256_json, write_json
from strop.decoding.drafters import Drafter, Guess
from strop.decoding.sampling import Sampling
from strop.errors import StropError
from strop.models.cache import cache_directory
from strop.models.interface import Model, Session
from strop.models.machine import thread_count

MOST_ROWS = 16  #: of a pass: the last token and up to 15 guesses
MEASURED_ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
MEASURING_SECONDS = 0.3
CONTEXT = 64  # tokens before the rows that are measured
GAIN = 1.03  #: how much better than none guesses have to look: to be wrong costs more than it gives
LEAST_REACH = 0.02  # chance that a guess is reached below which those after it do not matter
PRIOR_WEIGHT = 4.0  # guesses that a prior counts for
MEMORY = 64  # guesses of a kind that are remembered: older ones fade
PROBE = 64  # drafts after which a costly drafter that does not seem to pay is asked again


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

    guesses: tuple[Guess, ...] = ()
    drafter: str | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """Return the tokens that were guessed."""
        return tuple(guess.token for guess in self.guesses)


NOTHING = Draft()


class Planner:
    """Chooses drafts for one model, and learns from what became of them."""

    def __init__(self, seconds: Sequence[float], drafters: Sequence[Drafter]) -> None:
        """Take the seconds of a pass over 1, 2, ... rows."""
        self.seconds = list(seconds)
        self.drafters = list(drafters)
        self.rates = {drafter.name: [Rate(p) for p in drafter.priors] for drafter in drafters}
        self.overall = {drafter.name: Rate(median(drafter.priors)) for drafter in drafters}
        self.idle = Counter[str]()  # drafts since a costly drafter was asked
        self.first: dict[str, Guess] = {}  # what each drafter guesses for the next token
        self.rejecting = False

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""
        self.first = {}
        self.rejecting = sampling.rule == "rejection"
        for drafter in list(self.drafters):
            self.safely(drafter, drafter.start, prompt, sampling, session)

    def draft(self, limit: int, together: int = 1) -> Draft:
        """Return the guesses that are worth checking, at most `limit`.

        `together` is the number of texts that a pass continues.
        """
        seconds, delay = shared(self.seconds, together)
        best, best_speed = NOTHING, GAIN / seconds[0]
        self.first = {}
        limit = min(limit, len(seconds) - 1)
        for drafter in list(self.drafters):
            found = self.safely(drafter, self.explore, drafter, limit, seconds, best_speed, delay)
            if found is not None and found[1] > best_speed:
                best, best_speed = found
                if self.rejecting:
                    break
        return best

    def explore(
        self, drafter: Drafter, limit: int, seconds: Sequence[float], least: float, delay: float
    ) -> tuple[Draft, float]:
        """Return the draft of one drafter that gives the most tokens per second, and how many.

        A guess that takes time, or is drawn by chance for the rejection rule, is asked for only if
        an average one would help: one that was seen to be a bad one may not be left out by that
        rule, for that would make its tokens rarer than they should be.
        """
        name, cost = drafter.name, drafter.seconds * delay
        rates, average = self.rates[name], self.overall[name].mean
        guesses: list[Guess] = []
        reach = expected = 1.0
        length, speed, now = 0, 0.0, least
        with closing(drafter.propose()) as proposed:
            while len(guesses) < limit and reach >= LEAST_REACH:
                count = len(guesses) + 1
                spent = seconds[count] + count * cost
                hopeless = (expected + reach * average) / spent <= now
                if (cost or self.rejecting) and hopeless and (guesses or not self.probes(name)):
                    break
                guess = next(proposed, None)
                if guess is None:
                    break
                guesses.append(guess)
                reach *= average if self.rejecting else rates[guess.kind].mean
                expected += reach
                now = expected / spent
                if now > speed or self.rejecting:
                    length, speed = count, now
        if guesses:
            self.first[name] = guesses[0]
        return Draft(tuple(guesses[:length]), name), speed

    def probes(self, name: str) -> bool:
        """Tell whether a costly drafter that does not seem to pay is to be asked once again."""
        self.idle[name] = (self.idle[name] + 1) % PROBE
        return self.idle[name] == 0

    def learn(self, draft: Draft, chosen: Sequence[int]) -> None:
        """Take the tokens that a pass gave: those of the draft that were right, and one more."""
        for name, guess in self.first.items():
            self.count(name, guess, chosen[0])
        if draft.drafter in self.rates:
            for guess, found in zip(draft.guesses[1:], chosen[1:], strict=False):
                self.count(draft.drafter, guess, found)
        for drafter in list(self.drafters):
            self.safely(drafter, drafter.extend, chosen)

    def count(self, name: str, guess: Guess, found: int) -> None:
        """Count a guess as right or wrong."""
        self.rates[name][guess.kind].add(guess.token == found)
        self.overall[name].add(guess.token == found)

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
    how = [getattr(model, name, None) for name in ("kv", "upper")]
    where = [platform.node(), thread_count(), _native.instruction_set()]
    key = sha256_json([model.fingerprint, model.backend, *how, *where, MEASURED_ROWS])
    note = cache_directory() / "passes" / f"{key}.json"
    if note.is_file():
        seconds: list[float] = read_json(note)
        return seconds
    seconds = pass_seconds(model)
    with suppress(StropError, OSError):  # a cache that cannot be written only costs time
        write_json(note, seconds)
    return seconds


def shared(seconds: Sequence[float], together: int) -> tuple[list[float], float]:
    """Return what guesses of one text cost where so many texts share a pass, in the same terms.

    That is the seconds of passes, and what a second of drafting is to be multiplied by: all texts
    wait for it.

    With n texts and k guesses for one of them, a pass over n + k rows gives n - 1 tokens besides
    its own. It is worth its time exactly if 1 + n (v(n + k) / v(n) - 1) would be, for one text
    alone. Beyond the rows that were measured, a row costs as much as the last one did.
    """
    if together == 1:
        return list(seconds), 1.0
    slope = seconds[-1] - seconds[-2]

    def pass_over(rows: int) -> float:
        beyond = max(0, rows - len(seconds))
        return seconds[min(rows, len(seconds)) - 1] + beyond * slope

    plain = pass_over(together)
    passes = [
        seconds[0] * (1 + together * (pass_over(together + more) / plain - 1))
        for more in range(len(seconds))
    ]
    return passes, together * seconds[0] / plain
