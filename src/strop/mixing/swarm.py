"""From a swarm of short runs to a mixture: fitting and searching, without any training.

(RegMix: Liu et al. 2024, arXiv 2407.01492.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strop.errors import StropError
from strop.mixing.files import Swarm, may_replace, read_swarm, write_mixture
from strop.mixing.optimum import Objective, best_mixture
from strop.mixing.regression import LEAST, Fit, Nearness, fit
from strop.mixing.weights import Weights, uniform


def fitted_mixture(
    swarm: Swarm,
    objective: Objective,
    towards: Weights,
    pull: float = 0.0,
    limits: Weights | None = None,
    seed: int = 0,
    near: Sequence[Nearness] | None = None,
) -> tuple[Weights, Fit]:
    """Return the mixture that is best by a fit to a swarm, and the fit.

    `pull` draws it `towards` a mixture; see `best_mixture`. `near` has for each text of the
    objective how near every domain is to it; without it, each domain is like itself alone. Raises
    StropError if the swarm has no loss of a text that the objective is about.
    """
    texts = objective.texts(swarm.domains)
    for name in texts:
        if name not in swarm.texts:
            raise StropError(f"the table has no column 'loss {name}', which this objective needs")
    losses = swarm.losses[:, [swarm.texts.index(name) for name in texts]]
    if near is None:
        alone = dict(zip(swarm.domains, np.eye(len(swarm.domains)), strict=True))
        near = [alone.get(name) for name in texts]
    fitted = fit(swarm.mixtures, losses, near)
    return best_mixture(fitted.predict, objective, towards, pull, limits, seed), fitted


def without_copies(swarm: Swarm) -> Swarm:
    """Return one run for each mixture, with the mean of the losses; left out, a copy would tell."""
    mixtures, which = np.unique(swarm.mixtures, axis=0, return_inverse=True)
    if len(mixtures) == len(swarm.mixtures):
        return swarm
    losses = np.stack([swarm.losses[which == one].mean(axis=0) for one in range(len(mixtures))])
    return replace(swarm, mixtures=mixtures, losses=losses)


def mixture_from_table(
    table: Path, output: Path, objective: Objective, pull: float = 0.0
) -> dict[str, Any]:
    """Fit a table of runs, and write the mixture that is best by it.

    Returns what the fit says of it and of uniform weights, towards which it is pulled: a table does
    not know how many tokens there are. Raises StropError for a table that cannot be fitted.
    """
    may_replace(output)
    if not 0 <= pull < math.inf:
        raise StropError(f"pull must be a number of at least 0, not {pull}")
    swarm = without_copies(read_swarm(table))
    if len(swarm.mixtures) < LEAST:
        raise StropError(f"{table}: has {len(swarm.mixtures)} different mixtures: too few to fit")
    even = uniform([1] * len(swarm.domains))
    weights, fitted = fitted_mixture(swarm, objective, even, pull)
    write_mixture(output, swarm.domains, weights, {"method": "swarm", "objective": objective.kind})
    texts = objective.texts(swarm.domains)
    before, after = fitted.predict(np.stack([even, weights]))
    values = objective.value(np.stack([before, after]))
    return {
        "runs": len(swarm.mixtures),
        "weights": dict(zip(swarm.domains, weights.tolist(), strict=True)),
        "objective": {
            "kind": objective.kind,
            "uniform": float(values[0]),
            "mixture": float(values[1]),
        },
        "losses": {
            text: {"uniform": float(a), "mixture": float(b), "fit": kind, "error": errors[kind]}
            for text, a, b, kind, errors in zip(
                texts, before, after, fitted.kinds, fitted.errors, strict=True
            )
        },
    }
