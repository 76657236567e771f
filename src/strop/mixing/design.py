"""Which mixtures to try in a swarm of short runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from strop.errors import StropError
from strop.mixing.weights import Weights

NEAR = 32.0  #: concentration of mixtures that are nearly uniform
STRENGTHS = (1.0, 2.0, 4.0, 8.0)  #: of draws around the natural mixture, per domain


def designed(natural: Weights, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Return mixtures (count, domains): uniform, natural, nearly uniform, and drawn.

    The published swarm of RegMix has no point near uniform, so that what a fit says of uniform is
    an extrapolation, and uniform is hard to beat. A quarter of the rest is near it here; the others
    are Dirichlet draws, in turns around natural and around uniform, from wide to narrow. Raises
    StropError for fewer than four.
    """
    if count < 4:
        raise StropError(f"a swarm needs at least 4 runs, not {count}")
    random, domains = np.random.default_rng(seed), len(natural)
    uniform = np.full(domains, 1 / domains)
    found = [uniform, natural]
    wide = 0
    for place in range(count - 2):
        if place % 4 == 0:
            found.append(random.dirichlet(NEAR * uniform * domains))
            continue
        centre = uniform if wide % 2 else natural
        strength = STRENGTHS[wide // 2 % len(STRENGTHS)]
        found.append(random.dirichlet(np.maximum(strength * domains * centre, 0.05)))
        wide += 1
    return np.stack(found)
