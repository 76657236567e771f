"""DoReMi: the update by hand, by a slow reference, and what must not be averaged."""

from __future__ import annotations

import math

import numpy as np
import pytest

from strop.errors import StropError
from strop.mixing.doremi import SMOOTHING, Trajectory, excess_losses, updated


def test_an_update_by_hand() -> None:
    """Two domains, alpha = (1/2, 1/2), lambda = (log 3, 0), eta = 1, c = 0.1."""
    found = updated(np.array([0.5, 0.5]), np.array([math.log(3), 0.0]), 1.0, 0.1)
    np.testing.assert_allclose(found, [0.9 * 0.75 + 0.05, 0.9 * 0.25 + 0.05], rtol=1e-15)


def test_the_clamp_is_of_tokens_and_the_mean_of_a_domain() -> None:
    proxy = np.array([3.0, 1.0, 5.0, 2.0, 2.0])
    reference = np.array([2.0, 4.0, 4.0, 2.5, 0.0])
    found = excess_losses(proxy, reference, np.array([0, 0, 0, 1, 1]), 2)
    np.testing.assert_allclose(found, [(1 + 0 + 1) / 3, (0 + 2) / 2])
    # Not what clamping the mean would give: (1 - 3 + 1) / 3 < 0.
    assert found[0] > 0


def test_a_domain_s_loss_does_not_depend_on_the_others_in_the_batch() -> None:
    random = np.random.default_rng(0)
    proxy, reference = random.normal(3, 1, 30), random.normal(3, 1, 30)
    domains = np.repeat([0, 1], [3, 27])
    whole = excess_losses(proxy, reference, domains, 2)
    alone = excess_losses(proxy[:3], reference[:3], domains[:3], 1)
    assert whole[0] == alone[0]


def test_a_domain_without_tokens_is_an_error() -> None:
    with pytest.raises(StropError, match=r"no tokens of domains \[1\]"):
        excess_losses(np.ones(2), np.ones(2), np.array([0, 2]), 3)


def slow_reference(losses: list[list[float]], rate: float) -> list[float]:
    """Algorithm 1 in plain Python."""
    count = len(losses[0])
    alpha = [1 / count] * count
    total = [0.0] * count
    for step in losses:
        grown = [a * math.exp(rate * loss) for a, loss in zip(alpha, step, strict=True)]
        alpha = [(1 - SMOOTHING) * one / sum(grown) + SMOOTHING / count for one in grown]
        total = [a + b for a, b in zip(total, alpha, strict=True)]
    return [one / len(losses) for one in total]


def test_a_hundred_steps_equal_the_slow_reference() -> None:
    losses = np.random.default_rng(0).gamma(1.0, 0.3, (100, 7))
    trajectory = Trajectory.start(7)
    for step in losses:
        trajectory.step(step, 0.7)
    np.testing.assert_allclose(trajectory.mean, slow_reference(losses.tolist(), 0.7), rtol=1e-12)
    assert trajectory.steps == 100


def test_before_the_first_step_there_is_no_mean() -> None:
    with pytest.raises(StropError, match="took no step"):
        Trajectory.start(3).mean  # noqa: B018
