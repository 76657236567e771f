"""One training run with a given mixture, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from strop.mixing.jobs import ON_THE_WAY, Bench, Job, RunConfig, held_out, opened
from strop.mixing.online import Online
from strop.mixing.proxy import keep_reference
from strop.training.corpus import TARGET
from strop.training.loop import Trained, train
from strop.training.windows import (
    Window,
    domain_losses,
    fixed_order,
    language_modelling,
    mixed,
    training_windows,
    window_losses,
)

LIKELIHOODS = "likelihoods.npz"


def plain(bench: Bench, job: Job) -> dict[str, Any]:
    """Train with a mixture."""
    corpus, config, place = bench.corpus, bench.config, bench.place(job)
    network = opened(bench, job.seed).network
    windows = training_windows(corpus, job.parts, config.context)
    most = job.measured or config.evaluated
    validation = held_out(bench, "validation", most)
    names = [*corpus.names, TARGET]
    if job.online:
        moving = Online(windows.sizes.tolist(), config.batch, job.rate, job.seed)
        order, objective = moving.order(job.steps), moving.objective(names)
    else:
        rows = mixed(job.weights, windows.sizes, job.steps, config.batch, job.seed)
        order, objective = fixed_order(rows), language_modelling(names)
    trained = train(
        network,
        windows,
        objective,
        config.training(job.steps, job.seed),
        place / "training",
        held_out(bench, "validation", min(most, ON_THE_WAY)) if job.curve else (),
        "run",
        order,
    )
    if job.reference_for:
        keep_reference(bench, job, network)
        return {}
    if job.likelihoods:
        np.savez(place / LIKELIHOODS, **likelihoods(network, validation, names))
        return {}
    result: dict[str, Any] = {"validation": measured(network, validation, names, config.room)}
    if job.curve:
        result["curve"] = curve(trained, names, config)
        result["test"] = measured(network, held_out(bench, "test", most), names, config.room)
    if job.online:
        result["weights"] = moving.shares.tolist()
    return result


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read arrays by name."""
    with np.load(path) as kept:
        return dict(kept)


def measured(
    network: Any, windows: Sequence[Window], names: Sequence[str], room: int
) -> dict[str, float | None]:
    """Return the loss of each domain, and of the target; None for one that there is not."""
    found = domain_losses(network, windows, len(names), room)
    return {
        name: float(one.mean()) if len(one) else None
        for name, one in zip(names, found, strict=True)
    }


def curve(trained: Trained, names: Sequence[str], config: RunConfig) -> list[dict[str, Any]]:
    """Return the losses of each evaluation, and after how many tokens it was."""
    return [
        {
            "tokens": row["step"] * config.batch * config.context,
            "losses": {name: row[name] for name in names if name in row},
        }
        for row in trained.evaluations
    ]


def likelihoods(network: Any, windows: Sequence[Window], names: Sequence[str]) -> dict[str, Any]:
    """Return the log-probability of each token of held-out windows, by domain."""
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    with torch.no_grad():
        for one in windows:
            found[names[one.domain]].append(-window_losses(network, [one]).cpu().numpy().ravel())
    return {name: np.concatenate(own) for name, own in found.items() if own}
