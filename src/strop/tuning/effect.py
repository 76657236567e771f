"""What training did, on prompts that were neither trained on nor used to choose anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from strop.stage import Facts
from strop.stats import bootstrap, paired_difference, ratio, verdict
from strop.training.loop import Objective

#: Figures of which it is known which way is better.
LOWER_IS_BETTER = {"loss": True, "right": False, "margin": False}

Figures = dict[str, NDArray[np.float64]]  #: name -> (prompts, 2): sum and weight of each prompt


def measure(network: Any, items: Sequence[tuple[str, Any]], objective: Objective) -> Figures:
    """Return the figures of each prompt; several items of one prompt are put together."""
    sums: dict[str, dict[str, NDArray[np.float64]]] = {}
    with torch.no_grad():
        shared = None
        if objective.prepare:
            shared = sum(objective.prepare(network, [item]) for _, item in items)
        for key, item in items:
            loss, rows = objective.loss(network, [item], shared)
            pairs = [(name, value, 1.0) for row in rows for name, value in row.items()]
            pairs = [pair for pair in pairs if pair[0] != "loss"]
            pairs.append(("loss", float(loss), objective.weight(item)))
            for name, value, weight in pairs:
                known = sums.setdefault(name, {}).setdefault(key, np.zeros(2))
                known += (value, weight)
    return {name: np.stack([found[key] for key in sorted(found)]) for name, found in sums.items()}


def effect(before: Figures, after: Figures) -> Facts:
    """Return each figure before and after, and its change, with intervals over prompts."""
    found: Facts = {}
    for name in before:
        change = paired_difference(after[name], before[name], ratio)
        found[name] = {
            "before": bootstrap(before[name], ratio).to_json(),
            "after": bootstrap(after[name], ratio).to_json(),
            "difference": change.to_json(),
        }
        if name in LOWER_IS_BETTER:
            found[name]["verdict"] = verdict(change, LOWER_IS_BETTER[name])
    return found


def sentence(found: Mapping[str, Any], name: str) -> str:
    """Say how a figure changed."""
    before, after = (found[name][when]["estimate"] for when in ("before", "after"))
    low, high, n = (found[name]["difference"][key] for key in ("low", "high", "n"))
    word = f": {found[name]['verdict']}" if "verdict" in found[name] else ""
    return (
        f"{name}: {before:.4g} to {after:.4g}, a change of {after - before:+.3g} "
        f"[{low:+.3g}, {high:+.3g}]{word} (n = {n} prompts)"
    )
