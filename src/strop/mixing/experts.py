"""Expert mixture: weights from one short run per domain, for held-out or target texts.

Models of the domains, mixed as distributions, should explain the texts: the loss of text d is

    L_d(w) = -mean over its tokens y of log( sum over domains i of w_i p_i(y) ),

convex in the weights, and so are the mean and the largest of them. (MixMin: Thudi et al. 2025,
arXiv 2502.10510, section 3.) It is solved by sequential quadratic programming (scipy).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from strop.errors import StropError, StropFailure, failed_import
from strop.mixing.optimum import Objective
from strop.mixing.weights import Weights

Likelihoods = Sequence[NDArray[np.floating]]  #: of each text, log-probabilities (tokens, domains)
LEAST = 1e-9  #: weight of a domain, so that logarithms exist


def expert_weights(
    logps: Likelihoods,
    objective: Objective,
    natural: Weights,
    pull: float = 0.0,
    limits: NDArray[np.float64] | None = None,
) -> Weights:
    """Return the weights that explain texts best; see `best_mixture` for the other arguments.

    Raises StropError for log-probabilities that are not finite.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise failed_import(error, ["scipy"], "mix") from error
    check(logps)
    count, targets = len(natural), len(logps)
    shares = [np.exp(one - one.max(axis=1, keepdims=True)) for one in logps]
    highest = np.array([one.max(axis=1).mean() for one in logps])

    def losses(weights: Weights) -> NDArray[np.float64]:
        found = np.array([-np.log(one @ weights).mean() for one in shares], dtype=np.float64)
        found -= highest
        return found

    def slopes(weights: Weights) -> NDArray[np.float64]:
        return np.stack([-(one / (one @ weights)[:, None]).mean(axis=0) for one in shares])

    # The last variable is what is made small besides the pull: no less than any loss, or the mean.
    rows = np.eye(targets) if objective.kind == "worst" else objective.shares(targets)[None]

    def value(at: NDArray[np.float64]) -> float:
        return float(at[-1] + pull * (at[:-1] * np.log(at[:-1] / natural)).sum())

    def slope(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(pull * (np.log(at[:-1] / natural) + 1), 1.0)

    most = np.ones(count) if limits is None else np.minimum(limits, 1)
    start = most / most.sum()
    begin = np.append(start, (rows @ losses(start)).max())
    solved = minimize(
        value,
        begin,
        jac=slope,
        method="SLSQP",
        bounds=[*((LEAST, one) for one in most), (None, None)],
        constraints=[
            {
                "type": "eq",
                "fun": lambda at: at[:-1].sum() - 1,
                "jac": lambda at: np.append(np.ones(count), 0),
            },
            {
                "type": "ineq",
                "fun": lambda at: at[-1] - rows @ losses(at[:-1]),
                "jac": lambda at: np.column_stack([-rows @ slopes(at[:-1]), np.ones(len(rows))]),
            },
        ],
        options={"maxiter": 500, "ftol": 1e-10},
    )
    if not solved.success:
        raise StropFailure(f"the mixture of experts was not found: {solved.message}")
    inside = np.clip(solved.x[:-1], 0, most)
    found: Weights = inside / inside.sum()
    return found


def mixture_losses(logps: Likelihoods, weights: Weights) -> NDArray[np.float64]:
    """Return the loss of each text under the mixture, in nats per token."""
    return np.array(
        [
            -np.logaddexp.reduce(one + np.log(np.maximum(weights, LEAST)), axis=1).mean()
            for one in logps
        ]
    )


def check(logps: Likelihoods) -> None:
    """Raise StropError unless there are finite log-probabilities of some texts."""
    for one in logps:
        if one.ndim != 2 or not one.size or not np.isfinite(one).all():
            raise StropError("experts need a finite log-probability of each token by each domain")
    if not logps:
        raise StropError("experts need texts that they explain")
