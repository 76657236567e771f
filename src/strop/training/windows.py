"""Learning from running text: windows of a corpus, their order, and the loss of each domain.

A window has `context` + 1 tokens of one domain: each but the first is predicted from those before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from strop.errors import StropError
from strop.training.corpus import Corpus, Tokens
from strop.training.loop import Objective, Order, Row
from strop.training.memory import ROOM
from strop.training.scoring import head_logps
from strop.training.sequences import Group

ATTENTION = "sdpa"  #: windows are equally long, so PyTorch's own attention needs no mask


@dataclass(frozen=True, eq=False)
class Window:
    """Some text of a domain."""

    domain: int  #: its number
    place: int  #: which window of its part
    tokens: Tokens  #: (context + 1,)

    @property
    def group(self) -> Group:
        """Return what is computed, as the training loop asks."""
        first, *rest = self.tokens.tolist()
        return Group((first,), (tuple(rest),))


class Windows(Sequence[Window]):
    """The windows of some parts of all domains, one domain after another."""

    def __init__(self, parts: Sequence[Tokens], context: int, names: Sequence[str] = ()) -> None:
        """Take the tokens of each domain. Raises StropError for one shorter than a window."""
        self.parts, self.context = parts, context
        self.sizes = np.array([(len(one) - 1) // context for one in parts])
        if (short := np.flatnonzero(self.sizes < 1)).size:
            number = int(short[0])
            name = names[number] if names else str(number + 1)
            raise StropError(
                f"domain {name}: has a part of {len(parts[number])} tokens, less than a window of "
                f"{context + 1}: give more text, or a shorter context"
            )
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: Any) -> Any:
        """Return a window, or a list of some."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        domain = int(np.searchsorted(self.starts, index, side="right")) - 1
        place = int(index - self.starts[domain])
        at = place * self.context
        return Window(domain, place, self.parts[domain][at : at + self.context + 1])


def training_windows(corpus: Corpus, parts: Sequence[str], context: int) -> Windows:
    """Return the windows of all domains that are trained on."""
    return Windows(
        [
            np.concatenate([corpus.tokens(name, part) for part in parts])
            if len(parts) > 1
            else corpus.tokens(name, parts[0])
            for name in corpus.names
        ],
        context,
        corpus.names,
    )


def held_out_windows(corpus: Corpus, part: str, context: int, most: int) -> list[Window]:
    """Return windows of a held-out part of all domains, and of the target as the last.

    Of each as many as have `most` tokens together, at most, evenly spread.
    """
    names = [*corpus.names, "target"] if corpus.has_target else corpus.names
    windows = Windows([corpus.tokens(name, part) for name in names], context, names)
    found = []
    for start, size in zip(windows.starts, windows.sizes, strict=False):
        count = min(int(size), max(1, most // context))
        found += [windows[int(start + one * size // count)] for one in range(count)]
    return found


def fixed_order(rows: NDArray[np.int64]) -> Order:
    """Return the order of rows (steps, batch) for the training loop."""
    return Order(len(rows), rows.tolist().__getitem__)


def mixed(
    weights: ArrayLike, sizes: ArrayLike, steps: int, batch: int, seed: int
) -> NDArray[np.int64]:
    """Return the windows of each step, (steps, batch), so that domains come by their weights.

    `sizes` are windows of each domain. Each domain has its share of all places exactly, to one
    window, and evenly from the first step to the last: with equal weights, and a batch that is a
    multiple of the domains, as many of each are in every batch. A domain is read in another order
    each time that it is read again.
    """
    shares, counts = np.asarray(weights, dtype=np.float64), np.asarray(sizes)
    total = steps * batch
    places = dealt(shares, total)
    domains = np.repeat(np.arange(len(counts)), places)
    turns = np.concatenate([np.arange(one) for one in places])
    times = (turns + 0.5) / places[domains]
    order = np.lexsort((domains, times))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    found = np.concatenate(
        [
            start + shuffled(int(count), int(place), (seed, number))
            for number, (start, count, place) in enumerate(zip(starts, counts, places, strict=True))
        ]
    )
    rows: NDArray[np.int64] = found[order].reshape(steps, batch)
    return rows


def dealt(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Divide a number of places by largest remainders."""
    exact = shares / shares.sum() * total
    places: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    rest = np.argsort(places - exact, kind="stable")[: total - int(places.sum())]
    places[rest] += 1
    return places


def shuffled(count: int, wanted: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """Return so many numbers below `count`: all of them in random order, again and again."""
    every = [permutation(count, seed, epoch) for epoch in range(-(-wanted // count))]
    found: NDArray[np.int64] = np.concatenate([*every, np.zeros(0, np.int64)])[:wanted]
    return found


def permutation(count: int, seed: tuple[int, int], epoch: int) -> NDArray[np.int64]:
    """Return the order in which a domain, the second number of the seed, is read once."""
    return np.random.default_rng((*seed, epoch)).permutation(count)


def window_losses(network: Any, windows: Sequence[Window]) -> torch.Tensor:
    """Return the loss of each token, in nats, (windows, context)."""
    tokens = np.stack([one.tokens for one in windows]).astype(np.int64)
    ids = torch.from_numpy(tokens).to(network.device)
    output = network.base_model(input_ids=ids[:, :-1], use_cache=False)
    states = output.last_hidden_state.flatten(0, 1)
    logps = head_logps(network, states, ids[:, 1:].flatten())
    return -logps.view(len(windows), -1)


def language_modelling(names: Sequence[str]) -> Objective:
    """Return the objective of ordinary training: the mean loss of a token, whatever its domain.

    Each window has a figure of its own, called by its domain. The last weights are what remains:
    those that were best on the mean of some domains would not be of all the tokens.
    """

    def compute(
        network: Any, windows: Sequence[Window], shared: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[Row]]:
        losses = window_losses(network, windows).mean(1)
        values = losses.detach().tolist()
        rows = [{names[one.domain]: v} for one, v in zip(windows, values, strict=True)]
        return losses.sum(), rows

    return Objective(loss=compute, keep_best=False)


def domain_losses(
    network: Any,
    windows: Sequence[Window],
    count: int,
    room: int = ROOM,
    advance: Callable[[float], None] = lambda done: None,
) -> list[NDArray[np.float64]]:
    """Return the mean loss of each window, by domain."""
    found: list[list[float]] = [[] for _ in range(count)]
    lot = max(1, room // (len(windows[0].tokens) - 1))
    with torch.no_grad():
        for begin in range(0, len(windows), lot):
            some = windows[begin : begin + lot]
            for one, loss in zip(some, window_losses(network, some).mean(1).tolist(), strict=True):
                found[one.domain].append(loss)
            advance(len(some))
    return [np.array(one) for one in found]
