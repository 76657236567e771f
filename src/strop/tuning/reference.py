"""Log-probabilities by the network before tuning, computed once and kept in the cache."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from strop.console import progress
from strop.data import make_directory, remove, sha256_json
from strop.errors import StropError
from strop.models.cache import cache_directory
from strop.training.scoring import completion_logps, token_logps
from strop.training.sequences import Group, filled, lay_out

LOT = 64  #: groups that are computed between two times that results are kept
FILE = "log-probabilities.sqlite"  #: in the cache
WAIT = 60.0  # seconds for another process that writes


def reference_logps(
    network: Any, groups: Sequence[Group], identity: str, room: int
) -> list[tuple[float, ...]]:
    """Return the summed log-probability of each completion of each group.

    `identity` is a hash of the network: what was computed for the same tokens by the same network
    is read from the cache, for other losses, settings and data too. Raises StropError for a cache
    that cannot be used.
    """
    keys = [key_of(identity, str(network.dtype), group) for group in groups]
    path = cache_directory() / FILE
    make_directory(path.parent)
    try:
        return looked_up(path, network, groups, keys, room)
    except sqlite3.OperationalError as error:
        raise StropError(f"cannot use {path}: {error}") from error
    except (sqlite3.DatabaseError, ValueError):  # damaged: what it held is computed again
        remove(path)
        return looked_up(path, network, groups, keys, room)


def key_of(identity: str, dtype: str, group: Group) -> str:
    """Return the hash of all that the log-probabilities of a group depend on."""
    return sha256_json([identity, dtype, group.prompt, group.completions])


def looked_up(
    path: Path, network: Any, groups: Sequence[Group], keys: Sequence[str], room: int
) -> list[tuple[float, ...]]:
    """Read what is known, and compute and keep the rest."""
    with closing(sqlite3.connect(path, timeout=WAIT)) as base:
        base.execute("CREATE TABLE IF NOT EXISTS known (key TEXT PRIMARY KEY, logps TEXT)")
        found: dict[str, tuple[float, ...]] = {}
        for key in keys:
            row = base.execute("SELECT logps FROM known WHERE key = ?", (key,)).fetchone()
            if row:
                found[key] = tuple(map(float, json.loads(row[0])))
        missing = [index for index, key in enumerate(keys) if key not in found]
        with progress("log-probabilities before tuning", len(missing), "prompts") as advance:
            for start in range(0, len(missing), LOT):
                lot = missing[start : start + LOT]
                values = dict(
                    zip(
                        (keys[index] for index in lot),
                        computed(network, [groups[index] for index in lot], room),
                        strict=True,
                    )
                )
                found |= values
                rows = [(key, json.dumps(logps)) for key, logps in values.items()]
                with base:
                    base.executemany("INSERT OR REPLACE INTO known VALUES (?, ?)", rows)
                advance(len(lot))
    return [found[key] for key in keys]


def computed(network: Any, lot: Sequence[Group], room: int) -> Iterator[tuple[float, ...]]:
    """Yield the log-probabilities of each group, in order."""
    values: dict[int, tuple[float, ...]] = {}
    with torch.no_grad():
        for part in filled(lot, room):
            layout = lay_out([lot[index] for index in part], network.device)
            logps = completion_logps(token_logps(network, layout), layout).tolist()
            at = 0
            for index in part:
                count = len(lot[index].completions)
                values[index] = tuple(logps[at : at + count])
                at += count
    yield from (values[index] for index in range(len(lot)))
