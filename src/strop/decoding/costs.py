"""What a pass of a model takes on this machine, by its number of rows and what came before them."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from strop import _native
from strop.data import read_json, sha256_json, write_json
from strop.errors import StropError
from strop.models.cache import cache_directory
from strop.models.interface import Model, Session
from strop.models.machine import thread_count

MOST_ROWS = 16  #: of a pass: the last token and up to 15 guesses
MEASURED_ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
SHORT, LONG = 64, 576  #: tokens before the rows that are measured
MEASURING_SECONDS = 0.3  #: for each of the two


@dataclass(frozen=True)
class PassCosts:
    """The seconds of a pass over 1, 2, ... rows."""

    seconds: Sequence[float]  #: after SHORT tokens
    per_token: Sequence[float] = ()  #: by which they grow with each token before; (): they do not

    def after(self, length: int) -> list[float]:
        """Return the seconds of passes after so many tokens."""
        if not self.per_token:
            return list(self.seconds)
        more = length - SHORT
        return [one + more * slope for one, slope in zip(self.seconds, self.per_token, strict=True)]


def measured_costs(model: Model) -> PassCosts:
    """Measure passes over 1 to MOST_ROWS rows, after a short and after a long text.

    Takes twice MEASURING_SECONDS, or one turn, and the time to read LONG tokens.
    """
    rows = [count for count in MEASURED_ROWS if count < model.context_length]
    room = model.context_length - rows[-1]
    short, long = min(SHORT, room), min(LONG, room)
    session = model.session()
    session.forward([0] * short, last=1)
    seconds = timed(session, rows)
    if long <= 2 * short:
        return PassCosts(seconds)
    session.forward([0] * (long - short), last=1)
    later = timed(session, rows)
    growth = [max(0.0, b - a) / (long - short) for a, b in zip(seconds, later, strict=True)]
    return PassCosts(seconds, growth)


def timed(session: Session, rows: Sequence[int]) -> list[float]:
    """Return for each number of rows the fastest of some passes, in turns; interpolated between."""
    length = session.length
    best = dict.fromkeys(rows, math.inf)
    until = perf_counter() + MEASURING_SECONDS
    while math.isinf(best[rows[-1]]) or perf_counter() < until:
        for count in rows:
            start = perf_counter()
            session.forward([0] * count)
            best[count] = min(best[count], perf_counter() - start)
            session.truncate(length)
    rising = np.maximum.accumulate([best[count] for count in rows])  # more rows are not faster
    found: list[float] = np.interp(range(1, rows[-1] + 1), rows, rising).tolist()
    return found


def known_costs(model: Model) -> PassCosts:
    """Return `measured_costs`, measured once for a model and a machine and kept in the cache."""
    how = [getattr(model, name, None) for name in ("kv", "upper")]
    where = [platform.node(), thread_count(), _native.instruction_set()]
    key = sha256_json([model.fingerprint, model.backend, *how, *where, MEASURED_ROWS, SHORT, LONG])
    note = cache_directory() / "passes" / f"{key}.json"
    if note.is_file():
        return PassCosts(**read_json(note))
    costs = measured_costs(model)
    with suppress(StropError, OSError):  # a cache that cannot be written only costs time
        write_json(note, vars(costs))
    return costs


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


def expected(
    rates: Sequence[float], guess_seconds: float, seconds: Sequence[float]
) -> tuple[float, int]:
    """Return the speed in times of plain generation, and the number of guesses that gives it.

    `rates` is how often the first guess is right, the second if the first was, and so on.
    """
    best, tokens, reach = (1.0, 0), 1.0, 1.0
    for count, rate in enumerate(rates[: len(seconds) - 1], start=1):
        reach *= rate
        tokens += reach
        speed = tokens * seconds[0] / (seconds[count] + count * guess_seconds)
        best = max(best, (speed, count))
    return best
