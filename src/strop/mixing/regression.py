"""The loss of each domain as a function of the mixture, fitted to short runs.

One model per domain, whose mean is then taken: fitted to the mean loss itself, models are far worse
(on RegMix's runs, see docs/decisions.md). Fitting needs tables only, and no training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from strop.errors import StropError, failed_import, unknown_name

Table = NDArray[np.float64]
Predictor = Callable[[Table], NDArray[np.float64]]  #: mixtures (n, domains) -> losses (n,)
Nearness = NDArray[np.float64] | None  #: of each domain to a text, (domains,); None: not known

LEAST = 3  #: runs to fit anything to
CHOICE = 3  #: runs per domain from which on there is a choice of kinds
MOST_FITS = 40  #: of a kind, to tell its error: each run is left out alone, or with a fold
NEAR_OFFSET = 0.003  #: what near-share adds to a share
#: What log-ridge tries: what is added to a share, and strengths, in variances of the features
OFFSETS, RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3), (1e-4, 1e-3, 1e-2, 0.1, 1.0)


def boosted_trees(mixtures: Table, losses: NDArray[np.float64]) -> Predictor:
    """Fit gradient-boosted trees. (RegMix: Liu et al. 2024, arXiv 2407.01492, section 3.)

    The settings are for a few dozen runs: small trees, whose leaves may hold two of them.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise failed_import(error, ["lightgbm"], "mix") from error
    settings = {
        "objective": "regression",
        "learning_rate": 0.1,
        "num_leaves": 4,
        "min_data_in_leaf": 2,
        "min_data_in_bin": 1,
        "num_threads": 1,  # a fit takes milliseconds, and has the same bits everywhere
        "verbose": -1,
    }
    trees = lightgbm.train(settings, lightgbm.Dataset(mixtures, losses), 200)

    def predict(wanted: Table) -> NDArray[np.float64]:
        return np.asarray(trees.predict(wanted), dtype=np.float64)

    return predict


def gaussian_process(mixtures: Table, losses: NDArray[np.float64]) -> Predictor:
    """Fit a Gaussian process over the square roots of the weights.

    Their distance is that of Hellinger: 0 to 0.01 is further than 0.5 to 0.51.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, WhiteKernel
    except ImportError as error:
        raise failed_import(error, ["sklearn"], "mix") from error
    process = GaussianProcessRegressor(
        1.0 * RBF(0.5, (0.05, 10)) + WhiteKernel(1e-3, (1e-6, 1)), normalize_y=True
    )
    with warnings.catch_warnings():
        # A length at its bound is an answer as well: leaving one out tells how good it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(np.sqrt(mixtures), losses)

    def predict(wanted: Table) -> NDArray[np.float64]:
        return np.asarray(process.predict(np.sqrt(wanted)), dtype=np.float64)

    return predict


def log_linear(mixtures: Table, losses: NDArray[np.float64]) -> Predictor:
    """Fit c + exp(a + b . w). (Data mixing laws: Ye et al. 2024, arXiv 2403.16952, equation 7.)

    b is held small by a weak prior, as there are often fewer runs than twice the domains.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise failed_import(error, ["scipy"], "mix") from error
    lowest, spread = float(losses.min()), float(np.ptp(losses)) or 1.0

    def value(parameters: NDArray[np.float64], at: Table) -> NDArray[np.float64]:
        floor, height, slopes = parameters[0], parameters[1], parameters[2:]
        found: NDArray[np.float64] = floor + np.exp(np.clip(height + at @ slopes, -50, 50))
        return found

    def residuals(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        prior = 0.01 * parameters[2:]
        return np.concatenate([(value(parameters, mixtures) - losses) / spread, prior])

    start = np.zeros(2 + mixtures.shape[1])
    start[:2] = lowest - 0.5 * spread, np.log(spread)
    fitted = least_squares(residuals, start).x
    return lambda wanted: value(fitted, wanted)


def log_ridge(mixtures: Table, losses: NDArray[np.float64]) -> Predictor:
    """Fit c + sum of b_j log(w_j + r): a share counts less the more there is of it.

    By ridge regression. r and the strength are those with the lowest error when each run is left
    out, which a linear fit gives in closed form (Hastie et al., The Elements of Statistical
    Learning, 7.10).
    """
    tried = [(offset, strength) for offset in OFFSETS for strength in RIDGES]
    fits = [ridge(np.log(mixtures + offset), losses, strength) for offset, strength in tried]
    best = int(np.argmin([error for _, error in fits]))
    offset, slopes = tried[best][0], fits[best][0]
    centre, mean = np.log(mixtures + offset).mean(axis=0), losses.mean()

    def predict(wanted: Table) -> NDArray[np.float64]:
        rows = np.log(wanted + offset) - centre
        found: NDArray[np.float64] = mean + rows @ slopes
        return found

    return predict


def near_share(
    mixtures: Table, losses: NDArray[np.float64], near: NDArray[np.float64]
) -> Predictor:
    """Fit c - b log(s + 0.003) with s = near . w, how much of the mixture is like the text.

    Two numbers, for a dozen runs or fewer; what domains teach each other is in `near`, (domains,).
    b is not negative: runs in which more of a text makes it harder to predict say nothing of it.
    """
    logs = np.log(mixtures @ near + NEAR_OFFSET)
    centre, mean = logs.mean(), losses.mean()
    spread = float(((logs - centre) ** 2).sum())
    slope = float((logs - centre) @ losses) / spread if spread else 0.0
    fall = max(0.0, -slope)
    return lambda wanted: mean - fall * (np.log(wanted @ near + NEAR_OFFSET) - centre)


def ridge(
    features: Table, losses: NDArray[np.float64], strength: float
) -> tuple[NDArray[np.float64], float]:
    """Return the slopes of a ridge regression, and its mean square error with one run left out."""
    rows, values = features - features.mean(axis=0), losses - losses.mean()
    penalty = strength * len(values) * rows.var(axis=0).mean()
    inverse = np.linalg.pinv(rows.T @ rows + penalty * np.eye(rows.shape[1]))
    slopes: NDArray[np.float64] = inverse @ rows.T @ values
    leverage = np.einsum("ij,jk,ik->i", rows, inverse, rows) + 1 / len(values)
    left = np.maximum(1 - leverage, 1e-9)  # 0: a run that alone decides cannot be left out
    return slopes, float((((values - rows @ slopes) / left) ** 2).mean())


Regressor = Callable[[Table, NDArray[np.float64]], Predictor]

REGRESSORS: dict[str, Regressor] = {
    "log-ridge": log_ridge,
    "log-linear": log_linear,
    "process": gaussian_process,
    "trees": boosted_trees,
}


def regressors(near: Nearness) -> dict[str, Regressor]:
    """Return what can be fitted to the loss of a text, the simplest first.

    `near` tells how near each domain is to the text, (domains,); None if it is not known.
    """
    first = {} if near is None else {"near-share": partial(near_share, near=near)}
    return first | REGRESSORS


@dataclass(frozen=True)
class Fit:
    """The losses of all domains as functions of the mixture."""

    predictors: tuple[Predictor, ...]
    kinds: tuple[str, ...]  #: of each domain
    errors: tuple[dict[str, float], ...]  #: of each domain and kind, with one run left out

    def predict(self, mixtures: Table) -> Table:
        """Return the losses (n, losses) of mixtures (n, domains)."""
        return np.stack([one(mixtures) for one in self.predictors], axis=1)


def fit(
    mixtures: Table,
    losses: Table,
    near: Sequence[Nearness] | None = None,
    kind: str = "auto",
) -> Fit:
    """Fit one model to each column of `losses` (runs, losses), over `mixtures` (runs, domains).

    `near` has for each column how near each domain is to its text, (domains,), or None. "auto"
    takes for each column the simplest kind, unless there are enough runs to choose, and another one
    is surely better. Raises StropError for tables that do not fit together or are not finite.
    """
    check(mixtures, losses)
    enough = len(mixtures) >= CHOICE * mixtures.shape[1]
    predictors, kinds, errors = [], [], []
    rows = [None] * losses.shape[1] if near is None else near
    for column, row in zip(losses.T, rows, strict=True):
        known = regressors(row)
        if kind != "auto" and kind not in known:
            raise unknown_name("regressor", kind, ("auto", *known))
        tried = list(known) if enough else list(known)[:1]
        found = (
            {name: left_out_errors(known[name], mixtures, column) for name in tried}
            if kind == "auto"
            else {}
        )
        best = simplest(found) if found else kind
        predictors.append(known[best](mixtures, column))
        kinds.append(best)
        errors.append({name: float(np.sqrt(np.mean(one))) for name, one in found.items()})
    return Fit(tuple(predictors), tuple(kinds), tuple(errors))


def simplest(errors: Mapping[str, NDArray[np.float64]]) -> str:
    """Return the first name, or of those whose squared errors are surely lower the best.

    Surely: by more than a standard error of the difference. With a few dozen runs the lowest error
    is that of the luckiest kind. (Hastie et al., 7.10, the rule of one standard error.)
    """
    first, *others = errors
    surely = [first]
    for name in others:
        gain = errors[first] - errors[name]
        if gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)):
            surely.append(name)
    return min(surely, key=lambda name: errors[name].mean())


def left_out_errors(
    regressor: Regressor, mixtures: Table, losses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the squared error of predicting each run from others: all, or those of other folds."""
    fold = np.arange(len(losses)) % MOST_FITS
    found = np.zeros_like(losses)
    for number in range(min(MOST_FITS, len(losses))):
        left = fold == number
        found[left] = regressor(mixtures[~left], losses[~left])(mixtures[left])
    squared: NDArray[np.float64] = (found - losses) ** 2
    return squared


def check(mixtures: Table, losses: Table) -> None:
    """Raise StropError unless the tables can be fitted."""
    if mixtures.ndim != 2 or losses.ndim != 2 or len(mixtures) != len(losses):
        raise StropError(
            f"mixtures {mixtures.shape} and losses {losses.shape} are not of the same runs"
        )
    if len(mixtures) < LEAST:
        raise StropError(f"{len(mixtures)} runs are too few to fit: at least {LEAST}")
    for what, table in (("mixtures", mixtures), ("losses", losses)):
        if not np.isfinite(table).all():
            place = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
            raise StropError(f"the {what} of run {place} are not finite")
    if not np.allclose(mixtures.sum(axis=1), 1, atol=0.01) or (mixtures < 0).any():
        raise StropError("weights of a mixture must not be negative and must add up to one")
