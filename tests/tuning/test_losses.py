"""Each loss against its formula, written out with Python's own numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from strop.errors import StropError
from strop.tuning.losses import LOSSES, Scores, log1mexp, loss_settings


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pairs(k: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(k) for j in range(i + 1, k)]


def odds(mean: float) -> float:
    return mean - math.log(1 - math.exp(mean))


# s, r: log-probabilities now and before; n: tokens; v: values; t: the target's; z: shared;
# c: settings
FORMULAS: dict[str, Callable[..., float]] = {
    "slic": lambda s, r, n, v, t, z, c: max(0, c["margin"] - s[0] + s[1]) - c["regularization"] * t,
    "slic-margin": lambda s, r, n, v, t, z, c: (
        max(0, c["beta"] * (v[0] - v[1]) - s[0] + s[1]) - c["regularization"] * t
    ),
    "slic-list": lambda s, r, n, v, t, z, c: (
        sum(max(0, c["beta"] * (j - i) - s[i] + s[j]) for i, j in pairs(len(s)))
        - c["regularization"] * t
    ),
    "hinge": lambda s, r, n, v, t, z, c: max(0, 1 - c["beta"] * (s[0] - r[0] - s[1] + r[1])),
    "dpo": lambda s, r, n, v, t, z, c: (
        -(1 - c["smoothing"]) * math.log(sigmoid(c["beta"] * (s[0] - r[0] - s[1] + r[1])))
        - c["smoothing"] * math.log(sigmoid(-c["beta"] * (s[0] - r[0] - s[1] + r[1])))
    ),
    "dpo-norm": lambda s, r, n, v, t, z, c: (
        -math.log(sigmoid(c["beta"] * ((s[0] - r[0]) / n[0] - (s[1] - r[1]) / n[1])))
    ),
    "ipo": lambda s, r, n, v, t, z, c: (
        ((s[0] - r[0]) / n[0] - (s[1] - r[1]) / n[1] - 1 / (2 * c["beta"])) ** 2
    ),
    "simpo": lambda s, r, n, v, t, z, c: (
        -math.log(sigmoid(c["beta"] * (s[0] / n[0] - s[1] / n[1] - c["margin"])))
    ),
    "cpo": lambda s, r, n, v, t, z, c: (
        -math.log(sigmoid(c["beta"] * (s[0] - s[1]))) - c["regularization"] * s[0] / n[0]
    ),
    "orpo": lambda s, r, n, v, t, z, c: (
        -s[0] / n[0] - c["beta"] * math.log(sigmoid(odds(s[0] / n[0]) - odds(s[1] / n[1])))
    ),
    "kto": lambda s, r, n, v, t, z, c: (
        c["desirable"] * (1 - sigmoid(c["beta"] * (s[0] - r[0] - max(0, z))))
        + c["undesirable"] * (1 - sigmoid(c["beta"] * (max(0, z) - s[1] + r[1])))
    ),
    "rrhf": lambda s, r, n, v, t, z, c: (
        sum(max(0, s[j] / n[j] - s[i] / n[i]) for i, j in pairs(len(s))) - c["regularization"] * t
    ),
    "best-of-n": lambda s, r, n, v, t, z, c: -t,
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_formulas(name: str) -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        given = {key: one * random.uniform(0.5, 2) for key, one in LOSSES[name].defaults.items()}
        given |= {"smoothing": random.uniform(0, 0.4)} if "smoothing" in given else {}
        loss, settings = loss_settings(name, given)
        k = int(random.integers(2, 6)) if loss.whole_list else 2
        n = random.integers(2, 30, k).astype(float)
        s, r = -n * random.uniform(0.05, 2, k), -n * random.uniform(0.05, 2, k)
        v, t, z = random.uniform(0, 3, k), -random.uniform(1, 20), random.normal()
        tensors = [torch.tensor(one, dtype=torch.float64) for one in (s, n, r, v, t, z)]
        value = float(loss.formula(Scores(*tensors), settings))
        wanted = FORMULAS[name](s, r, n, v, t, z, settings)
        assert value == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_log1mexp_is_accurate_near_zero_and_far_from_it() -> None:
    x = torch.tensor([-1e-12, -1e-3, -0.6931, -0.6932, -5.0, -50.0], dtype=torch.float64)
    wanted = [math.log(-math.expm1(one)) for one in x.tolist()]
    assert log1mexp(x).tolist() == pytest.approx(wanted, rel=1e-12)
    x.requires_grad_()
    log1mexp(x).sum().backward()
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("slik", {}, "slic"),
        ("slic", {"beta": 0.1}, "the loss slic has no setting 'beta'"),
        ("dpo", {"beta": 0.0}, "beta"),
        ("dpo", {"smoothing": 0.7}, "smoothing"),
        ("slic", {"margin": float("nan")}, "margin"),
        ("best-of-n", {"margin": 1.0}, "none"),
    ],
)
def test_settings_that_do_not_apply_are_named(
    name: str, given: dict[str, float], message: str
) -> None:
    with pytest.raises(StropError, match=message):
        loss_settings(name, given)
