"""Influence: whether a step of training on a row lowers the loss on the rows of a target.

LESS, Xia et al. 2024, arXiv 2402.04333, sections 3 and 4: the cosine of the step that Adam would
take for a row and the gradient of a row of the target, both of the adapters of a network that was
warmed up, so that Adam has moments and no adapter has a gradient of zero. The mean of the cosines
to all rows of the target is the product with the mean of their unit gradients. So that one vector
is all that is kept of the target, nothing is kept of the other rows, and the values are exact: the
random projection that LESS keeps of every gradient is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from strop.console import progress, say
from strop.data import Example
from strop.data.instructions import Instruction
from strop.data.journal import Journal
from strop.errors import StropError, StropFailure
from strop.selection.subset import OBJECTIVE
from strop.training.loop import STATE, train
from strop.training.network import NetworkConfig, Source, open_source, open_trainee
from strop.training.processes import own_device
from strop.training.schedule import TrainingConfig
from strop.tuning.items import example_items
from strop.tuning.objective import Candidates
from strop.tuning.ranker import type_to_read
from strop.tuning.tune import SFT_RATE

JOURNAL = "influence.jsonl"
LOT = 32  #: rows of the target whose gradients are kept together

WARM_UP = 0.05  #: part of the rows that the adapters are warmed up on, as in LESS
LEAST_WARM_UP = 64  #: rows, or all that there are
#: LESS's epochs. Gradients are not clipped, so that the moments have the scale of a row's gradient.
TRAINING = TrainingConfig(learning_rate=SFT_RATE, epochs=4, batch=16, clip=0.0)

Influence = float | str  #: of a row, or why it has none


@dataclass(frozen=True)
class Adam:
    """What Adam remembers, for each weight."""

    first: torch.Tensor  #: running mean of the gradient, (weights,)
    second: torch.Tensor  #: running mean of its square, (weights,)
    steps: int  #: that were taken
    betas: tuple[float, float]  #: what both means keep in a step
    eps: float  #: is added to the root of the second

    def step(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return what Adam would subtract for a gradient (weights,), over the learning rate.

        (LESS, section 3.1; Kingma & Ba 2015, arXiv 1412.6980, algorithm 1.)
        """
        beta, beta_square = self.betas
        first = beta * self.first + (1 - beta) * gradient
        second = beta_square * self.second + (1 - beta_square) * gradient**2
        first /= 1 - beta ** (self.steps + 1)
        second /= 1 - beta_square ** (self.steps + 1)
        return first / (second.sqrt() + self.eps)


def influence(
    model: str, rows: Sequence[Instruction], targets: Sequence[Instruction], work: Path
) -> dict[str, Influence]:
    """Return the influence of each row on the target, from -1 to 1, by its key; or why it has none.

    The warm-up and what is known of each row are kept in `work`. Raises StropError for a model that
    cannot be trained, and for a target of which no row fits into its context.
    """
    source = open_source(model)
    items, reasons = readable(rows, source)
    if not items:
        raise StropError(f"no row fits: {next(iter(reasons.values()))}")
    aims, left_out = readable(targets, source)
    if not aims:
        raise StropError(f"the target has no row that fits: {next(iter(left_out.values()))}")
    if left_out:
        say(f"{len(left_out)} of {len(targets)} rows of the target are longer than the context")
    dtype = type_to_read(source.directory, work)
    network = open_trainee(source, NetworkConfig(dtype=dtype)).network
    adam = warmed_up(network, items, work)
    target = mean_direction(network, list(aims.values()), work)
    with Journal(work / JOURNAL) as journal:
        found: dict[str, Influence] = {row["key"]: row["influence"] for row in journal.rows}
        left = [key for key in items if key not in found]
        with progress("gradients of the rows", len(left), "rows") as advance:
            for key in left:
                cosine = float(unit(adam.step(gradient(network, items[key]))) @ target)
                found[key] = cosine if math.isfinite(cosine) else "its gradient is not finite"
                journal.add({"key": key, "influence": found[key]})
                advance(1)
    return found | reasons


def readable(
    rows: Sequence[Instruction], source: Source
) -> tuple[dict[str, Candidates], dict[str, str]]:
    """Return what is learned from each row by its key, and why the others are too long."""
    examples = [Example(one.prompt, one.completion) for one in rows]
    items, rejected = example_items(examples, source.tokenizer, source.context_length)
    reasons = {rows[one.line - 1].key: one.reason for one in rejected}
    keys = [one.key for one in rows if one.key not in reasons]
    return dict(zip(keys, (item for _, item in items), strict=True)), reasons


def warmed_up(network: Any, items: Mapping[str, Candidates], work: Path) -> Adam:
    """Train the adapters on a few of the rows, and return what Adam then remembers.

    Keys are hashes: the first of them in order are a random choice, and always the same.
    """
    count = max(LEAST_WARM_UP, math.ceil(WARM_UP * len(items)))
    chosen = [items[key] for key in sorted(items)[:count]]
    train(network, chosen, OBJECTIVE, TRAINING, work, label="warm-up")
    kept = torch.load(work / STATE, map_location=own_device(), weights_only=True)["optimizer"]
    [group] = kept["param_groups"]
    states = [kept["state"][place] for place in group["params"]]
    first, second = (
        torch.cat([one[name].flatten() for one in states]) for name in ("exp_avg", "exp_avg_sq")
    )
    return Adam(first, second, int(states[0]["step"]), tuple(group["betas"]), group["eps"])


def mean_direction(network: Any, items: Sequence[Candidates], work: Path) -> torch.Tensor:
    """Return the mean of the items' gradients, each of length 1: (weights,).

    A file for each so many items is kept in the work. Raises StropFailure if it is not finite.
    """
    total: NDArray[np.float32] | float = 0.0
    with progress("gradients of the target", len(items), "rows") as advance:
        for start in range(0, len(items), LOT):
            place = work / f"target-{start // LOT:05}.npy"
            lot = items[start : start + LOT]
            if not place.exists():
                partial = place.with_suffix(".partial.npy")
                np.save(partial, sum(unit(gradient(network, one)).cpu().numpy() for one in lot))
                partial.replace(place)
            total = total + np.load(place)
            advance(len(lot))
    if not np.isfinite(total).all():
        raise StropFailure("the gradient of a row of the target is not finite: leave it out")
    return torch.from_numpy(total / len(items)).to(own_device())


def gradient(network: Any, item: Candidates) -> torch.Tensor:
    """Return the gradient of an item's mean loss by all that is trained, (weights,)."""
    weights = [one for one in network.parameters() if one.requires_grad]
    loss, _ = OBJECTIVE.loss(network, [item], None)
    found = torch.autograd.grad(loss / OBJECTIVE.weight(item), weights)
    return torch.cat([one.flatten() for one in found])


def unit(vector: torch.Tensor) -> torch.Tensor:
    """Return a vector of length 1 in the same direction."""
    return vector / vector.norm()
