"""The swarm: which mixtures are tried, what is fitted to them, and what is best by the fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from strop.errors import StropError
from strop.mixing.design import designed
from strop.mixing.optimum import Objective, best_mixture
from strop.mixing.regression import REGRESSORS, fit, near_share
from strop.mixing.weights import natural

NATURAL = natural([1, 2, 3, 10])


def losses_of(mixtures: np.ndarray) -> np.ndarray:
    """Every domain helps itself most, with diminishing returns, and the next one a little."""
    help_each = mixtures + 0.3 * np.roll(mixtures, 1, axis=1)
    found: np.ndarray = 2 + np.array([0.5, 1.0, 1.5, 1.0]) * np.exp(-3 * help_each)
    return found


def test_a_design_has_uniform_and_natural_and_what_is_between() -> None:
    found = designed(NATURAL, 30)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found[0], 0.25)
    np.testing.assert_allclose(found[1], NATURAL)
    near = np.abs(found[2:] - 0.25).max(axis=1) < 0.2
    assert near.sum() >= 7
    assert found.max() > 0.7  # and there are extremes
    assert np.array_equal(found, designed(NATURAL, 30))
    assert not np.array_equal(found, designed(NATURAL, 30, seed=1))
    with pytest.raises(StropError, match="at least 4 runs"):
        designed(NATURAL, 3)


@pytest.mark.parametrize("kind", list(REGRESSORS))
def test_each_kind_ranks_mixtures_that_it_has_not_seen(kind: str) -> None:
    train, test = designed(NATURAL, 40), designed(NATURAL, 200, seed=1)
    predicted = fit(train, losses_of(train), kind=kind).predict(test).mean(axis=1)
    assert spearmanr(predicted, losses_of(test).mean(axis=1)).statistic > 0.85
    shuffled = np.random.default_rng(0).permutation(losses_of(train))
    noise = fit(train, shuffled, kind=kind).predict(test).mean(axis=1)
    assert abs(spearmanr(noise, losses_of(test).mean(axis=1)).statistic) < 0.6


def test_the_simplest_kind_is_taken_unless_another_is_surely_better() -> None:
    train, alone = designed(NATURAL, 24), np.eye(4)
    steps = (train[:, 0] > 0.3).astype(float) + (train[:, 1] > 0.2)
    own = 3 - 0.4 * np.log(train[:, 1] + 0.003)
    noise = np.random.default_rng(0).normal(size=(24, 12))
    assert fit(train, steps[:, None], alone[:1]).kinds == ("trees",)
    assert fit(train, own[:, None] + 0.01 * noise[:, :1], alone[1:2]).kinds == ("near-share",)
    of_noise = fit(train, noise, [alone[3]] * 12)
    lowest = [min(one, key=one.__getitem__) for one in of_noise.errors]  # by luck
    assert of_noise.kinds.count("near-share") >= lowest.count("near-share") + 3
    assert set(fit(train, noise[:, :1]).errors[0]) == set(REGRESSORS)  # nothing known to be near


def test_what_is_near_says_most_when_runs_are_few_and_noisy() -> None:
    runs, unseen = designed(NATURAL, 8), designed(NATURAL, 200, seed=1)
    near = np.array([[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0.2], [0, 0, 0.2, 1]])
    slopes = np.array([0.5, 0.2, 0.4, 0.3])

    def losses(mixtures: np.ndarray) -> np.ndarray:
        found: np.ndarray = 3 - slopes * np.log(mixtures @ near.T + 0.01)
        return found

    def error(predicted: np.ndarray) -> float:
        return float(np.sqrt(np.mean((predicted - losses(unseen)) ** 2)))

    noisy = losses(runs) + np.random.default_rng(0).normal(0, 0.03, (8, 4))
    found = fit(runs, noisy, near)
    assert found.kinds == ("near-share",) * 4  # too few runs to choose
    assert error(found.predict(unseen)) < 0.05
    for others in (
        fit(runs, noisy, np.eye(4)),
        *(fit(runs, noisy, kind=one) for one in REGRESSORS),
    ):
        assert error(others.predict(unseen)) > 1.5 * error(found.predict(unseen)), others.kinds


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_the_best_mixture_is_near_the_true_one(kind: str) -> None:
    objective = Objective(kind)
    found = best_mixture(losses_of, objective, NATURAL)
    every = np.random.default_rng(1).dirichlet(np.ones(4), 200_000)
    assert objective.value(losses_of(found[None]))[0] <= (
        objective.value(losses_of(every)).min() + 0.003
    )
    assert np.array_equal(found, best_mixture(losses_of, objective, NATURAL))


def test_more_of_a_text_never_makes_it_harder() -> None:
    near, shares = np.array([1.0, 0.0]), np.linspace(0.05, 0.95, 9)
    mixtures = np.stack([shares, 1 - shares], axis=1)
    falls = near_share(mixtures, 3 - 0.5 * np.log(shares + 0.003), near)
    np.testing.assert_allclose(falls(mixtures), 3 - 0.5 * np.log(shares + 0.003))
    rises = near_share(mixtures, 3 + 0.5 * shares, near)
    np.testing.assert_allclose(rises(mixtures), 3 + 0.5 * shares.mean())
    alike = near_share(np.full((4, 2), 0.5), np.arange(4.0), near)
    np.testing.assert_allclose(alike(mixtures), 1.5)


def test_a_pull_leads_to_the_natural_mixture_and_limits_hold() -> None:
    objective = Objective("weighted", {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0})
    free = best_mixture(losses_of, objective, NATURAL)
    pulled = best_mixture(losses_of, objective, NATURAL, pull=100.0)
    assert free[0] > 0.5
    np.testing.assert_allclose(pulled, NATURAL, atol=0.03)
    limits = np.array([0.3, 1.0, 1.0, 1.0])
    assert best_mixture(losses_of, objective, NATURAL, limits=limits)[0] <= 0.3 + 1e-6


def test_tables_that_cannot_be_fitted_are_one_line() -> None:
    train = designed(NATURAL, 10)
    losses = losses_of(train)
    broken = losses.copy()
    broken[4, 1] = np.nan
    for mixtures, table, said in (
        (train[:9], losses, "not of the same runs"),
        (train[:2], losses[:2], "too few to fit"),
        (train, broken, "the losses of run 4 are not finite"),
        (2 * train, losses, "must add up to one"),
    ):
        with pytest.raises(StropError, match=said):
            fit(mixtures, table)
    with pytest.raises(StropError, match="unknown regressor 'tree': did you mean 'trees'"):
        fit(train, losses, kind="tree")


def test_objectives_that_make_no_sense_are_refused() -> None:
    for kind, weights in (
        ("best", {}),
        ("mean", {"a": 1.0}),
        ("weighted", {}),
        ("weighted", {"a": 0.0}),
        ("weighted", {"a": 1.0, "b": -1.0}),
        ("weighted", {"a": float("nan")}),
    ):
        with pytest.raises(StropError):
            Objective(kind, weights)
    with pytest.raises(StropError, match="unknown domain 'c'"):
        Objective("weighted", {"c": 1.0}).texts(["a", "b"])
