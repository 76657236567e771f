"""The best mixture for an objective, as a fit predicts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from strop.errors import StropError, unknown_name
from strop.mixing.weights import Weights, capped

Losses = NDArray[np.float64]  #: (mixtures, losses)

STRENGTHS = (0.2, 0.5, 1.0, 4.0)  #: of the first draws: from few domains to all alike
KINDS = ("mean", "worst", "target", "weighted")
SAMPLES, ROUNDS, KEPT = 4096, 8, 64  #: mixtures of a round; rounds; best of one that lead the next


@dataclass(frozen=True)
class Objective:
    """What to make small: a function of the losses of some texts."""

    kind: str = "mean"  #: mean, worst or weighted, of the domains; or target
    weights: dict[str, float] = field(default_factory=dict)  #: of domains' losses, for weighted

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.kind not in KINDS:
            raise unknown_name("objective", self.kind, KINDS)
        if (self.kind == "weighted") != bool(self.weights):
            raise StropError("weights of losses belong to the objective weighted, which needs them")
        counts = self.weights.values()
        if counts and (min(counts) < 0 or not 0 < sum(counts) < math.inf):
            raise StropError("weights of losses must be finite, not negative, and not all zero")

    def texts(self, domains: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the texts whose losses count."""
        for name in self.weights:
            if name not in domains:
                raise unknown_name("domain", name, domains)
        return ("target",) if self.kind == "target" else tuple(self.weights or domains)

    def shares(self, texts: int) -> NDArray[np.float64]:
        """Return the weights of the losses in their mean."""
        weights = np.array([*self.weights.values()] or [1.0] * texts)
        found: NDArray[np.float64] = weights / weights.sum()
        return found

    def value(self, losses: Losses) -> NDArray[np.float64]:
        """Return the objective of each row of losses (mixtures, texts)."""
        found: NDArray[np.float64] = (
            losses.max(axis=1) if self.kind == "worst" else losses @ self.shares(losses.shape[1])
        )
        return found


def best_mixture(
    predict: Callable[[NDArray[np.float64]], Losses],
    objective: Objective,
    natural: Weights,
    pull: float = 0.0,
    limits: Weights | None = None,
    seed: int = 0,
) -> Weights:
    """Return the mixture of which a fit predicts the lowest objective.

    To it comes `pull` times the divergence KL(mixture || natural); mixtures above `limits`, where
    given, are brought within them. Mixtures are drawn in rounds, each around the best of the one
    before, and the mean of the best of the last is returned: trees predict steps, so that one
    mixture may be best by chance. (RegMix, section 3.3; rounds as in CLIMB, arXiv 2504.13161.)
    """
    random = np.random.default_rng(seed)
    count = len(natural)
    drawn = np.concatenate([random.dirichlet(np.full(count, a), SAMPLES // 4) for a in STRENGTHS])
    drawn = np.concatenate([drawn, natural[None], np.full((1, count), 1 / count)])
    for number in range(ROUNDS):
        drawn = allowed(drawn, limits)
        divergence = (drawn * np.log(np.maximum(drawn, 1e-12) / natural)).sum(axis=1)
        values = objective.value(predict(drawn)) + pull * divergence
        best = drawn[np.argsort(values, kind="stable")[:KEPT]]
        if number == ROUNDS - 1:
            break
        centres = best[random.integers(0, len(best), SAMPLES)]
        strength = 20.0 * 2**number
        moved = random.gamma(np.maximum(strength * centres, 1e-3))
        moved = moved / np.maximum(moved.sum(axis=1, keepdims=True), 1e-12)
        drawn = np.concatenate([best, moved])
    mean = best.mean(axis=0)
    found: Weights = mean / mean.sum()
    return found


def allowed(mixtures: NDArray[np.float64], limits: Weights | None) -> NDArray[np.float64]:
    """Return the mixtures, each brought within the limits."""
    if limits is None:
        return mixtures
    over = (mixtures > limits).any(axis=1)
    found = mixtures.copy()
    for row in np.flatnonzero(over):
        found[row] = capped(mixtures[row], limits)
    return found
