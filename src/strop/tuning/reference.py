"""Log-probabilities by the network before tuning, computed once and kept in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from strop.data import sha256_json
from strop.models.cache import cache_directory
from strop.training.scoring import completion_logps, token_logps
from strop.training.sequences import Group, filled, lay_out
from strop.tuning.known import Numbers, looked_up

FILE = "log-probabilities.sqlite"  #: in the cache


def reference_logps(
    network: Any, groups: Sequence[Group], identity: str, room: int
) -> list[Numbers]:
    """Return the summed log-probability of each completion of each group.

    `identity` is a hash of the network: what was computed for the same tokens by the same network
    is read from the cache, for other losses, settings and data too. Raises StropError for a cache
    that cannot be used.
    """
    keys = [key_of(identity, str(network.dtype), group) for group in groups]

    def compute(places: list[int]) -> Iterator[Numbers]:
        return computed(network, [groups[place] for place in places], room)

    return looked_up(cache_directory() / FILE, keys, compute, "log-probabilities before tuning")


def key_of(identity: str, dtype: str, group: Group) -> str:
    """Return the hash of all that the log-probabilities of a group depend on."""
    return sha256_json([identity, dtype, group.prompt, group.completions])


def computed(network: Any, lot: Sequence[Group], room: int) -> Iterator[Numbers]:
    """Yield the log-probabilities of each group, in order."""
    values: dict[int, Numbers] = {}
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
