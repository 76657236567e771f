"""Prompts with their completions, laid end to end without padding, each prompt once.

A group is a prompt P and completions C1 ... Ck. It is laid out as P C1 C2 ... Ck; every completion
has the positions that it would have right after the prompt, and attends to the prompt and to itself
only. All matrix products then work on P + C1 + ... + Ck rows instead of the k (P + C) of a padded
batch. (Prefix sharing for preference pairs: Wang & Hegde 2024, arXiv 2410.20305.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """A prompt and what may follow it; none of them is empty."""

    prompt: Tokens
    completions: tuple[Tokens, ...]

    def __post_init__(self) -> None:
        if not self.prompt or not self.completions or not all(self.completions):
            raise ValueError("a group needs a prompt and completions, and none may be empty")

    @property
    def size(self) -> int:
        """Return the tokens that are computed."""
        return len(self.prompt) + sum(map(len, self.completions))

    @property
    def longest(self) -> int:
        """Return the tokens of the prompt with its longest completion."""
        return len(self.prompt) + max(map(len, self.completions))


@dataclass(frozen=True)
class Layout:
    """Some groups, end to end."""

    groups: tuple[Group, ...]
    tokens: torch.Tensor  #: (1, n)
    positions: torch.Tensor  #: (1, n)
    predictors: torch.Tensor  #: (scored,) rows after which the completions' tokens come
    targets: torch.Tensor  #: (scored,) the completions' tokens
    owners: torch.Tensor  #: (scored,) number of the completion that each belongs to

    @cached_property
    def lengths(self) -> torch.Tensor:
        """Return the tokens of each completion, of all groups one after another."""
        lengths = [len(one) for group in self.groups for one in group.completions]
        return torch.tensor(lengths, device=self.tokens.device)

    @cached_property
    def ends(self) -> torch.Tensor:
        """Return the row of the last token of each completion, of all groups one after another."""
        rows, at = [], 0
        for group in self.groups:
            at += len(group.prompt)
            for one in group.completions:
                at += len(one)
                rows.append(at - 1)
        return torch.tensor(rows, device=self.tokens.device)


def lay_out(groups: Iterable[Group], device: torch.device | str = "cpu") -> Layout:
    """Put groups end to end."""
    groups = tuple(groups)
    tokens: list[int] = []
    positions: list[np.ndarray] = []
    predictors: list[np.ndarray] = []
    targets: list[int] = []
    lengths: list[int] = []
    for group in groups:
        last = len(tokens) + len(group.prompt) - 1
        tokens += group.prompt
        positions.append(np.arange(len(group.prompt)))
        for completion in group.completions:
            begin, length = len(tokens), len(completion)
            tokens += completion
            positions.append(len(group.prompt) + np.arange(length))
            predictors.append(np.array([last, *range(begin, begin + length - 1)]))
            targets += completion
            lengths.append(length)

    def tensor(values: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.long, device=device)

    return Layout(
        groups,
        tensor(tokens)[None],
        tensor(np.concatenate(positions))[None],
        tensor(np.concatenate(predictors)),
        tensor(targets),
        tensor(np.repeat(np.arange(len(lengths)), lengths)),
    )


def filled(groups: Sequence[Group], room: int) -> list[list[int]]:
    """Distribute groups, the longest first, so that few lots of at most `room` tokens arise.

    Returns the indices of each lot; a group that is larger than the room has one of its own.
    Groups of like length come together, and the order does not depend on where they were.
    """
    order = sorted(range(len(groups)), key=lambda index: (-groups[index].size, index))
    lots: list[list[int]] = []
    left = 0
    for index in order:
        size = groups[index].size
        if not lots or size > left:
            lots.append([])
            left = room
        lots[-1].append(index)
        left -= size
    return lots
