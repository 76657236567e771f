"""Online: weights that move in one run, so that the worst loss becomes small.

Domains whose loss is above the others' get more of the next batches (group DRO by sampling, Sagawa
et al. 2020, arXiv 1911.08731, equation 7). The weights move only when every domain has been seen
since they moved last, by its losses since then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from strop.mixing.weights import Weights
from strop.training.loop import Objective, Order, Row
from strop.training.windows import Window, permutation, window_losses

EVEN = 0.1  #: part of the weights that stays uniform, so that every domain keeps coming


class Online:
    """What an online run learns beside its network: weights, and what was read."""

    def __init__(self, sizes: Sequence[int], batch: int, rate: float, seed: int) -> None:
        """Take the windows of each domain; `rate` is by how much weights move for a nat."""
        self.sizes, self.batch, self.rate, self.seed = sizes, batch, rate, seed
        count = len(sizes)
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.logits = np.zeros(count)  #: what the weights are by, but for their even part
        self.due = np.zeros(count)  #: places that each domain is owed
        self.read = np.zeros(count, np.int64)  #: windows of each domain so far
        self.early = np.zeros(count, np.int64)  #: of these, in the first half of the run
        self.total, self.seen = np.zeros(count), np.zeros(count)  #: losses since the last move
        self.half = 0  #: step at which the second half begins
        self.epoch = lru_cache(2 * count)(self.permuted)

    @property
    def weights(self) -> Weights:
        """Return the weights of the domains."""
        grown = np.exp(self.logits - self.logits.max())
        found: Weights = (1 - EVEN) * grown / grown.sum() + EVEN / len(grown)
        return found

    @property
    def shares(self) -> Weights:
        """Return what share of the second half of the run each domain had.

        The first half is of another order: domains that are hard to begin with are not those that
        stay hard.
        """
        late = self.read - self.early
        found: Weights = late / late.sum()
        return found

    def permuted(self, domain: int, epoch: int) -> NDArray[np.int64]:
        """Return the order of a domain's windows the next time that it is read."""
        return permutation(self.sizes[domain], (self.seed, domain), epoch)

    def next_batch(self, step: int) -> list[int]:
        """Move the weights, if all domains were seen, and return the windows of the next step."""
        if self.seen.all():
            losses = self.total / self.seen
            self.logits += self.rate * (losses - losses.mean())
            self.total, self.seen = np.zeros_like(self.total), np.zeros_like(self.seen)
        if step == self.half:
            self.early = self.read.copy()
        weights = self.weights
        return [self.next_window(weights) for _ in range(self.batch)]

    def next_window(self, weights: Weights) -> int:
        """Return a window of the domain that is owed most."""
        self.due += weights
        domain = int(np.argmax(self.due))
        self.due[domain] -= 1
        epoch, place = divmod(int(self.read[domain]), self.sizes[domain])
        self.read[domain] += 1
        return int(self.starts[domain] + self.epoch(domain, epoch)[place])

    def order(self, steps: int) -> Order:
        """Return the order for the training loop."""
        self.half = steps // 2
        return Order(steps, self.next_batch)

    def objective(self, names: Sequence[str]) -> Objective:
        """Return the objective of ordinary training, which also notes the losses of the domains."""

        def compute(
            network: Any, windows: Sequence[Window], shared: torch.Tensor | None
        ) -> tuple[torch.Tensor, list[Row]]:
            losses = window_losses(network, windows).mean(1)
            values = losses.detach().tolist()
            if torch.is_grad_enabled():
                for one, value in zip(windows, values, strict=True):
                    self.total[one.domain] += value
                    self.seen[one.domain] += 1
            rows = [{names[one.domain]: v} for one, v in zip(windows, values, strict=True)]
            return losses.sum(), rows

        return Objective(loss=compute, state=self, keep_best=False)

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept with the weights of the network."""
        names = ("logits", "due", "read", "early", "total", "seen")
        return {name: getattr(self, name).tolist() for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what was kept."""
        for name, values in state.items():
            setattr(self, name, np.array(values, getattr(self, name).dtype))
