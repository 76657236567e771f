"""DoReMi: domain weights by group DRO on the excess loss of a proxy over a reference.

Xie et al. 2023, arXiv 2305.10429, algorithm 1. In each step the loss of every domain is the mean,
over its tokens, of how much worse the proxy is than the reference, but not less than zero; weights
of domains with much of it grow; the result is the mean of the weights over all steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from strop.errors import StropError
from strop.mixing.weights import Weights
from strop.training.loop import Objective, Row
from strop.training.windows import Window, window_losses

SMOOTHING = 1e-3  #: c of the paper: the part of the weights that stays uniform


def excess_losses(
    proxy: NDArray[np.floating],
    reference: NDArray[np.floating],
    domains: NDArray[np.integer],
    count: int,
) -> NDArray[np.float64]:
    """Return the mean excess loss of each domain, (count,), for tokens (n,) of known domains.

    The clamp at zero is taken of each token, before the mean. Raises StropError if a domain has no
    token: its weight could only be moved by a loss of long ago.
    """
    excess = np.maximum(proxy.astype(np.float64) - reference, 0)
    tokens = np.bincount(domains, minlength=count)
    if (missing := np.flatnonzero(tokens == 0)).size:
        raise StropError(f"no tokens of domains {missing.tolist()} in a step of DoReMi")
    found: NDArray[np.float64] = np.bincount(domains, excess, count) / tokens
    return found


def updated(
    weights: Weights, losses: NDArray[np.float64], rate: float, smoothing: float = SMOOTHING
) -> Weights:
    """Return the weights after a step: multiplied by exp(rate * losses), normalized, smoothed."""
    logs = np.log(weights) + rate * losses
    grown = np.exp(logs - logs.max())
    found: Weights = (1 - smoothing) * grown / grown.sum() + smoothing / len(weights)
    return found


@dataclass
class Trajectory:
    """The weights of all steps so far; what is kept of a run that goes on."""

    weights: Weights  #: after the last step
    total: Weights  #: sum over steps
    steps: int = 0

    @classmethod
    def start(cls, count: int) -> Trajectory:
        """Begin with uniform weights, which do not count in the mean."""
        return cls(np.full(count, 1 / count), np.zeros(count))

    def step(self, losses: NDArray[np.float64], rate: float) -> None:
        """Take the losses of one step."""
        self.weights = updated(self.weights, losses, rate)
        self.total = self.total + self.weights
        self.steps += 1

    @property
    def mean(self) -> Weights:
        """Return the mean over the steps. Raises StropError before the first one."""
        if not self.steps:
            raise StropError("DoReMi took no step")
        return self.total / self.steps

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept with the weights of the proxy."""
        return {
            "weights": self.weights.tolist(),
            "total": self.total.tolist(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what was kept."""
        self.weights, self.total = np.array(state["weights"]), np.array(state["total"])
        self.steps = int(state["steps"])


def proxy_objective(
    names: Sequence[str],
    reference: Sequence[NDArray[np.floating]],
    trajectory: Trajectory,
    rate: float,
) -> Objective:
    """Return the objective of the proxy; `trajectory` takes a step with each of its batches.

    `reference` holds for each domain the losses of the reference, (windows, context). The whole
    batch has to be computed at a time, as the new weights count for it already.
    """

    def compute(
        network: Any, windows: Sequence[Window], shared: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[Row]]:
        losses = window_losses(network, windows)
        before = np.stack([reference[one.domain][one.place] for one in windows])
        owners = np.array([one.domain for one in windows])
        excess = excess_losses(
            losses.detach().cpu().numpy().ravel(),
            before.ravel(),
            np.repeat(owners, before.shape[1]),
            len(names),
        )
        trajectory.step(excess, rate)
        # Each domain's mean loss counts by its weight. The loop divides by the windows.
        shares = trajectory.weights[owners] / np.bincount(owners)[owners] * len(windows)
        means = losses.mean(1)
        total = (means * torch.from_numpy(shares).to(means)).sum()
        rows = [
            {
                names[one.domain]: value,
                f"excess {names[one.domain]}": float(excess[one.domain]),
                f"weight {names[one.domain]}": float(trajectory.weights[one.domain]),
            }
            for one, value in zip(windows, means.detach().tolist(), strict=True)
        ]
        return total, rows

    return Objective(loss=compute, state=trajectory, keep_best=False)
