"""The mixture of experts that explains texts best."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from strop.errors import StropError
from strop.mixing.experts import expert_weights, mixture_losses
from strop.mixing.optimum import Objective

EVEN = np.full(4, 0.25)


def texts(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [
        random.normal(-5 + np.roll([1, 0, 0, 0], place), 1.5, (200, 4)) for place in range(count)
    ]


def slow_expectation_maximization(logps: np.ndarray) -> np.ndarray:
    shares = np.exp(logps - logps.max(axis=1, keepdims=True))
    weights = np.full(logps.shape[1], 1 / logps.shape[1])
    for _ in range(20_000):
        weights = weights * (shares / (shares @ weights)[:, None]).mean(axis=0)
    return weights


def test_it_equals_expectation_maximization() -> None:
    [logps] = texts(1)
    found = expert_weights([logps], Objective(), EVEN)
    np.testing.assert_allclose(found, slow_expectation_maximization(logps), atol=1e-3)


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_it_is_the_optimum_of_a_general_solver(kind: str) -> None:
    logps, objective = texts(3), Objective(kind)

    def loss(free: np.ndarray) -> float:
        weights = np.exp(free - free.max())
        return float(objective.value(mixture_losses(logps, weights / weights.sum())[None])[0])

    wanted = minimize(loss, np.zeros(4), method="Nelder-Mead", options={"maxiter": 20000})
    found = mixture_losses(logps, expert_weights(logps, objective, EVEN))
    assert objective.value(found[None])[0] <= wanted.fun + 1e-5


def test_an_expert_that_explains_nothing_gets_nothing() -> None:
    logps = np.array([[-1.0, -9.0, -1.0], [-2.0, -30.0, -1.5]] * 20)
    assert expert_weights([logps], Objective(), np.full(3, 1 / 3))[1] < 1e-3


def test_weights_of_a_sampled_mixture_are_found() -> None:
    random = np.random.default_rng(0)
    tables = random.dirichlet(np.ones(50), 3)  # three distributions over fifty words
    wanted = np.array([0.6, 0.3, 0.1])
    words = random.choice(50, 20_000, p=wanted @ tables)
    found = expert_weights([np.log(tables[:, words].T)], Objective(), np.full(3, 1 / 3))
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_a_pull_leads_to_the_natural_mixture_and_limits_hold() -> None:
    natural = np.array([0.4, 0.3, 0.2, 0.1])
    pulled = expert_weights(texts(1), Objective(), natural, pull=100.0)
    np.testing.assert_allclose(pulled, natural, atol=0.01)
    limits = np.array([0.2, 1.0, 1.0, 1.0])
    assert expert_weights(texts(1), Objective(), EVEN)[0] > 0.3
    found = expert_weights(texts(1), Objective(), EVEN, limits=limits)
    assert found[0] <= 0.2 + 1e-9
    assert found.sum() == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.zeros((0, 4)), np.zeros(3), np.full((2, 4), np.nan)])
def test_what_cannot_be_mixed_is_an_error(bad: np.ndarray) -> None:
    with pytest.raises(StropError, match="a finite log-probability"):
        expert_weights([bad], Objective(), EVEN)
