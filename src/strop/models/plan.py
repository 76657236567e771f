"""Which format each matrix of a model takes."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from strop.blockfp import FORMATS, Format, get_format
from strop.errors import StropError, unknown_name
from strop.models.checkpoint import DTYPES, Checkpoint
from strop.models.packed import part_layout, tensor_kind

KEEP = "keep"  #: in place of a format: leave a tensor as it is

#: Element types that are packed; whole numbers and truth values are kept
FLOATS = ("F64", "F32", "F16", "BF16")

#: Formats that a budget is spent on
CANDIDATES = tuple(map(get_format, ("bfp4", "bfp5", "bfp6", "bfp8")))


@dataclass(frozen=True)
class Plan:
    """A format for all matrices, or one for the layers and one for embedding and head."""

    name: str  #: what users call it: a format, or two joined by a plus sign
    format: Format  #: of all matrices but these:
    embedding: Format  #: of embedding and head

    @classmethod
    def parse(cls, name: str) -> Plan:
        """Read "bfp4" or "bfp4+bfp6"; StropError names the nearest format if one is unknown."""
        first, _, second = name.partition("+")
        return cls(name, get_format(first), get_format(second if "+" in name else first))

    def of(self, kind: str) -> Format:
        """Return the format of a matrix of this kind (see `tensor_kind`)."""
        return self.embedding if kind in ("embedding", "head") else self.format


def tensor_format(name: str) -> Format | None:
    """Return the format that a user names for some tensors, None for "keep".

    Raises StropError, which names the nearest, if it is neither.
    """
    if name not in (*FORMATS, KEEP):
        raise unknown_name("format", name, [*FORMATS, KEEP])
    return None if name == KEEP else get_format(name)


def matrices(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the tensors that are packed. Raises StropError if there are none."""
    found = [
        name
        for name in checkpoint.names
        if len(checkpoint.shape(name)) == 2
        and 0 not in checkpoint.shape(name)
        and checkpoint.dtype(name) in FLOATS
        and tensor_kind(name) != "norm"
    ]
    if not found:
        raise StropError(f"{checkpoint.directory}: no matrices to pack")
    return found


def chosen_formats(
    checkpoint: Checkpoint, plan: Plan | None, overrides: Mapping[str, str]
) -> dict[str, Format | None]:
    """Choose the format of each matrix, None for those that are kept.

    `overrides` maps patterns of names to a format or "keep"; the last one that matches holds.
    Without a plan only what the overrides choose is returned.
    """
    names = matrices(checkpoint)
    chosen: dict[str, Format | None] = {}
    if plan is not None:
        chosen |= {name: plan.of(tensor_kind(name)) for name in names}
    for pattern, override in overrides.items():
        format = tensor_format(override)
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise StropError(f"no matrix is called '{pattern}': the first is {names[0]}")
        chosen |= dict.fromkeys(matching, format)
    return chosen


def formats_within(
    checkpoint: Checkpoint,
    bits: float,
    costs: Mapping[str, Mapping[Format, float]],
    fixed: Mapping[str, Format | None],
) -> dict[str, Format | None]:
    """Choose formats so that all weights together take at most `bits` bits each.

    `costs` is what a format costs in a matrix (see `sensitivities`); a matrix that is not in there
    takes the largest format. `fixed` are those chosen already. Raises StropError if even the
    smallest formats take more.
    """
    sizes, spare = room(checkpoint, bits, costs, fixed)
    return dict(fixed) | cheapest(costs, sizes, spare)


def check_bits(checkpoint: Checkpoint, bits: float, fixed: Mapping[str, Format | None]) -> None:
    """Raise the StropError of `formats_within` where no costs could prevent it."""
    room(checkpoint, bits, matrices(checkpoint), fixed)


def room(
    checkpoint: Checkpoint,
    bits: float,
    measured: Container[str],
    fixed: Mapping[str, Format | None],
) -> tuple[dict[str, dict[Format, int]], float]:
    """Return the sizes that each matrix can take, and the bits that there are for all of them."""
    sizes: dict[str, dict[Format, int]] = {}
    weights = sum(math.prod(checkpoint.shape(name)) for name in checkpoint.names)
    spare = bits * weights
    packed = set(matrices(checkpoint))
    for name in checkpoint.names:
        format = fixed.get(name)
        if name not in packed or (name in fixed and format is None):
            spare -= 8 * checkpoint.entry(name).size
            continue
        options = [format] if format else CANDIDATES if name in measured else CANDIDATES[-1:]
        sizes[name] = {row: stored_bits(checkpoint.shape(name), row) for row in options}
    smallest = sum(min(options.values()) for options in sizes.values())
    if spare < smallest:
        least = bits + (smallest - spare) / weights
        raise StropError(f"{bits:g} bits per weight are too few: at least {least:.3f} are needed")
    return sizes, spare


def cheapest(
    costs: Mapping[str, Mapping[Format, float]],
    sizes: Mapping[str, Mapping[Format, int]],
    budget: float,
) -> dict[str, Format]:
    """Choose one format each so that the costs add up to little and the sizes to <= budget.

    Starting from the smallest, the change that saves most per bit is made as long as one fits
    (greedy, for a knapsack: at most one change short of the best).
    """
    chosen = {name: min(options, key=lambda f: options[f]) for name, options in sizes.items()}
    spare = budget - sum(sizes[name][format] for name, format in chosen.items())
    while True:
        best, gain = None, 0.0
        for name, now in chosen.items():
            for format, size in sizes[name].items():
                more = size - sizes[name][now]
                if not 0 < more <= spare:
                    continue
                saved = (costs[name][now] - costs[name][format]) / more
                if saved > gain:
                    best, gain = (name, format, more), saved
        if best is None:
            return chosen
        name, format, more = best
        chosen[name] = format
        spare -= more


def stored_bits(shape: tuple[int, ...], format: Format) -> int:
    """Return the bits that a packed tensor of a shape takes."""
    layout = part_layout("", shape, format).values()
    return sum(8 * np.dtype(DTYPES[dtype]).itemsize * math.prod(part) for dtype, part in layout)
