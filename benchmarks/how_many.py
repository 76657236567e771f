"""What an answer of `strop how-many` is worth: simulated studies of curves that are known.

A loss is off a power law by what its seed is, at all sizes, and by what its run is. Both have the
deviation that is called noise, as a share of the gain from the fewest examples to all. Runs of a
seed are independent, or go together as sums over nested subsets do; or they vary four times as much
with all examples as with the fewest, or a fourth. Writes benchmarks/results/how_many.json.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from statistics import mean

import numpy as np

from engine_models import HERE
from strop.console import progress
from strop.data import write_json
from strop.selection.curve import Run, enough
from tables import table

STUDIES = 1000  #: of each curve in each setting
SIZES, SHARE = np.array([100, 200, 400, 800, 1600, 3200]), 0.95
END = 1.5  #: loss with all examples; with the fewest it is 1 above it
CURVES = tuple(product((0.2, 0.5, 1.0, 1.5), (None, 4.0)))  #: exponent, loss before training
APART = np.abs(np.subtract.outer(range(len(SIZES)), range(len(SIZES))))  #: sizes, in doublings
KINDS = {  #: covariance of the runs of a seed, but for its scale
    "independent": np.eye(len(SIZES)),
    "as nested sums": 0.5 ** (APART / 2.0),
    "more with more examples": np.diag(np.geomspace(1.0, 16.0, len(SIZES))),
    "less with more examples": np.diag(np.geomspace(16.0, 1.0, len(SIZES))),
}
SETTINGS = (
    *product(("independent", "as nested sums"), (0.1, 0.3), (3, 5)),
    *product(("more with more examples", "less with more examples"), (0.1,), (3, 5)),
)

Case = tuple[int, tuple[str, float, int], tuple[float, float | None]]


def truth(exponent: float, untrained: float | None) -> tuple[float, float]:
    """Return the size that gives the share of the gain, and the fall per doubling at the end."""
    first, last = float(SIZES[0]) ** -exponent, float(SIZES[-1]) ** -exponent
    scale = 1.0 / (first - last)
    left = (1.0 - SHARE) * (1.0 if untrained is None else untrained - END)
    size = min(left / scale + last, first) ** (-1.0 / exponent)
    return size, scale * exponent * math.log(2.0) * last


def simulated(case: Case) -> dict[str, float]:
    """Study one curve in one setting, and return the shares of studies that the table shows."""
    number, (kind, noise, seeds), (exponent, untrained) = case
    rng = np.random.default_rng(number)
    size, slope = truth(exponent, untrained)
    powers = SIZES.astype(float) ** -exponent
    curve = END + (powers - powers[-1]) / (powers[0] - powers[-1])
    runs_vary = np.linalg.cholesky(KINDS[kind] / KINDS[kind].diagonal().mean()).T
    found = []
    for draws in range(STUDIES):
        losses = curve + rng.normal(0.0, noise, (seeds, 1))
        losses += rng.normal(0.0, noise, losses.shape) @ runs_vary
        runs = [Run(int(SIZES[at]), seed, loss) for (seed, at), loss in np.ndenumerate(losses)]
        found.append(enough(runs, untrained, SHARE, resamples=1000, seed=draws))
    held = [not one.size.excludes(size) for one in found if one.size]
    told = [not one.size.excludes(size) for one in found if one.size and one.verdict == "enough"]
    slopes = [not one.slope.excludes(slope) for one in found if one.slope]
    return {
        "have intervals": len(held) / STUDIES,
        "that hold the size": mean(held),
        "and the slope": mean(slopes),
        'say "enough"': len(told) / STUDIES,
        "and hold the size": mean(told),
        'of all, say "enough" and miss': told.count(False) / STUDIES,
    }


def main() -> None:
    """Study all curves in all settings, and write the table."""
    cases = [(number, *case) for number, case in enumerate(product(SETTINGS, CURVES))]
    shares = []
    with ProcessPoolExecutor() as pool, progress("Curves", len(cases)) as advance:
        for one in pool.map(simulated, cases):
            shares.append(one)
            advance(1)
    rows = []
    for at, (kind, noise, seeds) in enumerate(SETTINGS):
        of_curves = shares[at * len(CURVES) : (at + 1) * len(CURVES)]
        ranges = {
            column: f"{100.0 * min(one[column] for one in of_curves):.0f} to "
            f"{max(one[column] for one in of_curves):.0%}"
            for column in of_curves[0]
        }
        rows.append({"runs vary": kind, "noise": f"{noise:.0%}", "seeds": seeds} | ranges)
    result = {
        "name": "how_many",
        "title": "answers of how-many where the truth is known, shares of simulated studies "
        f"({len(CURVES)} curves, n = {STUDIES:,} studies of each, least and most of the curves)",
        "machine": {"simulation": "simulated, the same on all machines"},
        "rows": rows,
    }
    write_json(HERE / "results" / "how_many.json", result)
    print(table("how_many"))
    held = [one["that hold the size"] for one in shares]
    print("RESULT " + json.dumps({"least_held": min(held), "most_held": max(held)}))


if __name__ == "__main__":
    main()
