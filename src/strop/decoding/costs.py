"""What a pass of a model takes on this machine, by its number of rows and what came before them."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from time import perf_counter
from typing import Any

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
MEASURING_SECONDS = 0.8
TOO_SLOW = 1.3  #: in times of a pass now: costs that are kept are not believed beyond that


@dataclass(frozen=True)
class PassCosts:
    """The seconds of a pass over 1, 2, ... rows."""

    seconds: Sequence[float]  #: after SHORT tokens
    attention: float = 0.0  #: by which they grow with each row and each token before it

    def after(self, length: int) -> list[float]:
        """Return the seconds of passes after so many tokens."""
        more = max(0, length - SHORT) * self.attention
        return [one + rows * more for rows, one in enumerate(self.seconds, start=1)]


def measured_rows(model: Model) -> list[int]:
    """Return the numbers of rows that are measured: some room is left for tokens before them."""
    return [count for count in MEASURED_ROWS if count < model.context_length] or [1]


def measured_costs(model: Model) -> PassCosts:
    """Measure passes over 1 to MOST_ROWS rows, after a short and after a long text, in turns.

    What counts is how many times one row some rows take. So each pass is compared with one over one
    row right before it, which a machine that changes its speed does not spoil, and medians are
    taken. Takes MEASURING_SECONDS, or two turns, and the time to read LONG tokens.
    """
    rows = measured_rows(model)
    room = model.context_length - rows[-1]
    short, long = (prepared(model, min(length, room)) for length in (SHORT, LONG))
    passes = [*((short, count) for count in rows), (long, rows[-1])]
    turns: list[list[tuple[float, float]]] = []
    until = perf_counter() + MEASURING_SECONDS
    while len(turns) < 2 or perf_counter() < until:
        turns.append([(pass_seconds(short, 1), pass_seconds(*one)) for one in passes])
    before, after = np.moveaxis(np.array(turns), 2, 0)
    *times, most = np.median(before) * np.median(after / before, axis=0)
    rising = np.maximum.accumulate(times)  # more rows are not faster
    seconds: list[float] = np.interp(range(1, rows[-1] + 1), rows, rising).tolist()
    if long.length == short.length:
        return PassCosts(seconds)
    growth = (most - times[-1]) / rows[-1] / (long.length - short.length)
    return PassCosts(seconds, max(0.0, float(growth)))


def prepared(model: Model, length: int) -> Session:
    """Return a session of so many tokens."""
    session = model.session()
    session.forward([0] * length, last=1)
    return session


def pass_seconds(session: Session, rows: int) -> float:
    """Time a pass over so many rows, and take it back."""
    length = session.length
    start = perf_counter()
    session.forward([0] * rows)
    took = perf_counter() - start
    session.truncate(length)
    return took


def known_costs(model: Model) -> PassCosts:
    """Return `measured_costs`, measured once for a model and a machine and kept in the cache.

    Measured again where a pass over one token is now clearly faster: the machine was busy then.
    """
    how = [getattr(model, name, None) for name in ("kv", "upper")]
    where = [platform.node(), thread_count(), _native.instruction_set()]
    what = [MEASURED_ROWS, SHORT, LONG, *(field.name for field in fields(PassCosts))]
    key = sha256_json([model.fingerprint, model.backend, *how, *where, *what])
    note = cache_directory() / "passes" / f"{key}.json"
    kept = None
    if note.is_file():
        with suppress(StropError):  # what is damaged is measured anew
            kept = believed(read_json(note), measured_rows(model)[-1])
    if kept and plain_seconds(model) * TOO_SLOW > kept.seconds[0]:
        return kept
    costs = measured_costs(model)
    with suppress(StropError, OSError):  # a cache that cannot be written only costs time
        write_json(note, vars(costs))
    return costs


def believed(found: Any, rows: int) -> PassCosts | None:
    """Return the costs of passes over up to so many rows that a note holds, if it does."""
    if not isinstance(found, dict) or found.keys() != {field.name for field in fields(PassCosts)}:
        return None
    seconds, attention = found["seconds"], found["attention"]
    if not isinstance(seconds, list) or len(seconds) != rows:
        return None
    numbers = [*seconds, attention]
    if not all(isinstance(one, float) and 0 <= one < math.inf for one in numbers) or 0 in seconds:
        return None
    return PassCosts(seconds, attention)


def plain_seconds(model: Model) -> float:
    """Return the time of the faster one of two passes over one token."""
    session = prepared(model, min(SHORT, model.context_length - 1))
    return min(pass_seconds(session, 1) for _ in range(2))


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
    slope = seconds[-1] - seconds[-2] if len(seconds) > 1 else seconds[0]

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
