"""Log-probabilities by the network before tuning, computed once and kept in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from strop.console import progress
from strop.data import read_json, sha256_json, write_json
from strop.errors import StropError
from strop.models.cache import cache_directory
from strop.training.scoring import completion_logps, token_logps
from strop.training.sequences import Group, filled, lay_out

LOT = 64  #: groups that are kept together in one file


def reference_logps(
    network: Any, groups: Sequence[Group], identity: str, room: int
) -> list[tuple[float, ...]]:
    """Return the summed log-probability of each completion of each group.

    `identity` is a hash of the network: what was computed for the same tokens by the same network
    is read from the cache, for other losses, settings and epochs too.
    """
    found: list[tuple[float, ...]] = []
    with progress("log-probabilities before tuning", len(groups), "prompts") as advance:
        for start in range(0, len(groups), LOT):
            lot = groups[start : start + LOT]
            tokens = [[list(one.prompt), *map(list, one.completions)] for one in lot]
            key = sha256_json([identity, str(network.dtype), tokens])
            path = cache_directory() / "log-probabilities" / f"{key}.json"
            values = None
            with suppress(StropError):  # not there, or damaged: it is computed
                values = checked(read_json(path), lot)
            if values is None:
                values = list(computed(network, lot, room))
                write_json(path, values)
            found += values
            advance(len(lot))
    return found


def checked(value: Any, lot: Sequence[Group]) -> list[tuple[float, ...]] | None:
    """Return what a file of the cache holds, or None if it is not what belongs there."""
    shape = [len(group.completions) for group in lot]
    if not isinstance(value, list) or [len(row) for row in value] != shape:
        return None
    return [tuple(map(float, row)) for row in value]


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
