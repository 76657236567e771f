"""Numbers that take long to compute, kept by the hash of all that they depend on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

from strop.console import progress
from strop.data import make_directory, remove
from strop.errors import StropError

LOT = 64  #: that are computed between two times that they are kept
WAIT = 60.0  # seconds for another process that writes

Numbers = tuple[float, ...]


def looked_up(
    path: Path | None,
    keys: Sequence[str],
    compute: Callable[[list[int]], Iterable[Numbers]],
    label: str,
) -> list[Numbers]:
    """Return the numbers of each key: those that a file knows, and the rest computed and kept.

    `compute` is given places in `keys`. Without a path nothing is kept. Raises StropError for a
    file that cannot be used; one that is damaged is begun anew.
    """
    if path is None:
        return read(":memory:", keys, compute, label)
    make_directory(path.parent)
    try:
        return read(path, keys, compute, label)
    except sqlite3.OperationalError as error:
        raise StropError(f"cannot use {path}: {error}") from error
    except sqlite3.DatabaseError:  # damaged: what it held is computed again
        remove(path)
        return read(path, keys, compute, label)


def read(
    path: Path | str,
    keys: Sequence[str],
    compute: Callable[[list[int]], Iterable[Numbers]],
    label: str,
) -> list[Numbers]:
    """Read what is known, and compute and keep the rest."""
    with closing(sqlite3.connect(path, timeout=WAIT)) as base:
        base.execute("CREATE TABLE IF NOT EXISTS numbers (key TEXT PRIMARY KEY, value TEXT)")
        found: dict[str, Numbers] = {}
        for key in keys:
            row = base.execute("SELECT value FROM numbers WHERE key = ?", (key,)).fetchone()
            if row:
                found[key] = numbers(row[0])
        missing = [index for index, key in enumerate(keys) if key not in found]
        with progress(label, len(missing), "prompts") as advance:
            for start in range(0, len(missing), LOT):
                lot = missing[start : start + LOT]
                values = dict(zip((keys[index] for index in lot), compute(lot), strict=True))
                found |= values
                rows = [(key, json.dumps(value)) for key, value in values.items()]
                with base:
                    base.executemany("INSERT OR REPLACE INTO numbers VALUES (?, ?)", rows)
                advance(len(lot))
    return [found[key] for key in keys]


def numbers(text: str) -> Numbers:
    """Read what was kept. Raises DatabaseError if it is damaged."""
    try:
        return tuple(map(float, json.loads(text)))
    except (TypeError, ValueError) as error:
        raise sqlite3.DatabaseError(f"not numbers: {text!r:.40}") from error
