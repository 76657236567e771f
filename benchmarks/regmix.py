"""How well a fit to a few dozen runs ranks mixtures that it has not seen.

The runs are those that RegMix published: 512 mixtures of 17 domains of the Pile, each with the
losses of a 1M-parameter model on 13 of them, and 256 other mixtures. A fit to n of the 512 predicts
the mean loss of the 256; the rank correlation is averaged over random subsets. Needs $STROP_DATA.
Writes benchmarks/results/regmix.json.
"""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from engine_models import HERE
from strop.data import write_json
from strop.mixing.regression import REGRESSORS, fit
from strop.models.environment import environment
from strop.stats import bootstrap
from tables import table

RESULTS = HERE / "results"
SUBSETS = {34: 20, 68: 20, 512: 1}  #: runs -> random subsets
SLOW = {"process": 68, "log-linear": 68}  #: kinds that are not fitted to more runs


def read(name: str) -> NDArray[np.float64]:
    """Return a table without its index."""
    path = Path(os.environ["STROP_DATA"]) / "regmix" / f"{name}_1m.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    return np.array(rows, dtype=np.float64)[:, 1:]


def mixtures(name: str) -> NDArray[np.float64]:
    """Return mixtures; the published ones are rounded."""
    found = read(f"{name}_mixture")
    return found / found.sum(axis=1, keepdims=True)


def correlations(kind: str, runs: int) -> list[float]:
    """Return the rank correlation of each subset."""
    weights, losses = mixtures("train"), read("train_pile_loss")
    unseen, truth = mixtures("test"), read("test_pile_loss").mean(axis=1)
    random = np.random.default_rng(0)
    found = []
    for _ in range(SUBSETS[runs]):
        chosen = random.permutation(len(weights))[:runs]
        predicted = fit(weights[chosen], losses[chosen], kind=kind).predict(unseen).mean(axis=1)
        found.append(float(spearmanr(predicted, truth).statistic))
    return found


def measured() -> dict[str, float]:
    """Measure all kinds, write the table, and return what RESULT says of trees."""
    rows, claims = [], {}
    for kind in REGRESSORS:
        for runs in SUBSETS:
            if runs > SLOW.get(kind, runs):
                continue
            found = correlations(kind, runs)
            several = len(found) > 1
            rows.append(
                {
                    "fit of each domain": kind,
                    "runs": runs,
                    "rank correlation": bootstrap(found).to_json() if several else found[0],
                    "subsets": len(found),
                }
            )
            if kind == "trees":
                claims[f"spearman_{runs}"] = round(float(np.mean(found)), 4)
    facts = environment()
    write_json(
        RESULTS / "regmix.json",
        {
            "name": "regmix",
            "title": "Predicted and true ranks of the mean loss of 256 mixtures that no fit has "
            "seen, on the runs published with RegMix (17 domains, 13 losses)",
            "machine": {"processor": facts["processor"]},
            "rows": rows,
        },
    )
    print(table("regmix"))
    return claims


if __name__ == "__main__":
    print("RESULT", json.dumps(measured()))
