"""Mixtures and swarms as files.

A mixture is JSON: {"domains": {NAME: WEIGHT, ...}, ...}. A swarm is CSV, a row for each run, whose
columns are called `weight DOMAIN` and `loss TEXT`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strop.data import atomic_path, read_json, write_json
from strop.errors import StropError
from strop.mixing.regression import Table, check
from strop.mixing.weights import Weights

WEIGHT, LOSS = "weight ", "loss "
LARGEST = 1e6  #: loss that is believed, in nats


@dataclass(frozen=True)
class Swarm:
    """What came of short runs with several mixtures."""

    domains: tuple[str, ...]
    texts: tuple[str, ...]  #: whose losses were measured
    mixtures: Table  #: (runs, domains)
    losses: Table  #: (runs, texts), in nats per token


def write_swarm(swarm: Swarm, path: Path) -> None:
    """Write a table."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        names = [WEIGHT + one for one in swarm.domains], [LOSS + one for one in swarm.texts]
        table.writerow([*names[0], *names[1]])
        table.writerows(np.hstack([swarm.mixtures, swarm.losses]).tolist())


def read_swarm(path: Path) -> Swarm:
    """Read a table. Raises StropError for one that cannot be fitted."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = [row for row in csv.reader(stream, strict=True) if row]
            header, *rows = lines or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StropError(f"{path}: cannot be read as a table: {error}") from error
    domains = [one.removeprefix(WEIGHT) for one in header if one.startswith(WEIGHT)]
    texts = [one.removeprefix(LOSS) for one in header if one.startswith(LOSS)]
    if len(domains) < 2 or not texts:
        raise StropError(f"{path}: needs two columns 'weight NAME' at least, and one 'loss NAME'")
    for name in header:
        if header.count(name) > 1:
            raise StropError(f"{path}: two columns are called {name!r}")
    names = [*(WEIGHT + one for one in domains), *(LOSS + one for one in texts)]
    places = [header.index(name) for name in names]
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise StropError(f"{path}: row {line} has {len(row)} values, not {len(header)}")
    table = np.array(
        [
            [number(f"{path}: row {line}, {header[at]}", row[at]) for at in places]
            for line, row in enumerate(rows, 2)
        ]
    ).reshape(len(rows), len(names))
    swarm = Swarm(tuple(domains), tuple(texts), table[:, : len(domains)], table[:, len(domains) :])
    if (abs(swarm.losses) > LARGEST).any():
        raise StropError(f"{path}: a loss is larger than {LARGEST:g} nats")
    try:
        check(swarm.mixtures, swarm.losses)
    except StropError as error:
        raise StropError(f"{path}: {error}") from error
    return swarm


def number(place: str, text: str) -> float:
    """Return the number that is written at a place."""
    try:
        return float(text)
    except ValueError as error:
        raise StropError(f"{place}: {text!r} is no number") from error


def write_mixture(
    path: Path, names: Sequence[str], weights: Weights, facts: Mapping[str, Any]
) -> None:
    """Write a mixture for `strop train`."""
    mixture = {"domains": dict(zip(names, weights.tolist(), strict=True))}
    write_json(path, mixture | dict(facts))


def may_replace(path: Path) -> None:
    """Raise StropError for a file that is there and is no mixture."""
    if not path.exists():
        return
    try:
        found = read_json(path)
    except StropError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("domains"), dict):
        raise StropError(f"{path}: is there, and is no mixture: name another")


def read_mixture(path: Path, names: Sequence[str]) -> Weights:
    """Read the weights of domains in order.

    Raises StropError for a mixture of other domains, and for weights that are none.
    """
    found = read_json(path)
    domains = found.get("domains") if isinstance(found, dict) else None
    if not isinstance(domains, dict):
        raise StropError(f"{path}: is no mixture: it needs domains, each with a weight")
    if set(domains) != set(names):
        other = ", ".join(sorted(set(domains) ^ set(names)))
        raise StropError(f"{path}: is a mixture of other domains ({other})")
    values = [domains[name] for name in names]
    if not all(type(one) in (int, float) and 0 <= one <= 1 for one in values):
        raise StropError(f"{path}: weights must be numbers from 0 to 1")
    weights = np.array(values, dtype=np.float64)
    if abs(weights.sum() - 1) > 1e-6:
        raise StropError(f"{path}: the weights add up to {weights.sum():g}, not to 1")
    weights /= weights.sum()
    return weights
