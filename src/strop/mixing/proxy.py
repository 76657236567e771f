"""The runs of DoReMi: a reference, whose losses are kept, and a proxy that is compared with it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from strop.mixing.doremi import Trajectory, proxy_objective
from strop.mixing.jobs import Bench, Job, RunConfig, opened
from strop.training.corpus import TRAINED
from strop.training.loop import train
from strop.training.windows import Windows, fixed_order, mixed, training_windows, window_losses

REFERENCE = "reference.npz"


def proxy_batch(config: RunConfig, domains: int) -> int:
    """Return the windows of a proxy's step: as many of each domain."""
    return domains * math.ceil(config.batch / domains)


def proxy_order(windows: Windows, steps: int, batch: int, seed: int) -> NDArray[np.int64]:
    """Return the windows of a proxy's steps."""
    return mixed(np.ones(len(windows.sizes)), windows.sizes, steps, batch, seed)


def keep_reference(bench: Bench, job: Job, network: Any) -> None:
    """Write the losses of each token that the proxy will see: it is computed once."""
    corpus, config = bench.corpus, bench.config
    windows = training_windows(corpus, TRAINED[1:], config.context)
    batch = proxy_batch(config, len(corpus.names))
    seen = np.unique(proxy_order(windows, job.reference_for, batch, job.seed))
    kept = [np.full((size, config.context), np.nan, np.float32) for size in windows.sizes]
    lot = max(1, config.room // config.context)
    with torch.no_grad():
        for begin in range(0, len(seen), lot):
            some = [windows[int(index)] for index in seen[begin : begin + lot]]
            losses = window_losses(network, some).cpu().numpy()
            for one, row in zip(some, losses, strict=True):
                kept[one.domain][one.place] = row
    np.savez(bench.place(job) / REFERENCE, *kept)


def proxy(bench: Bench, job: Job) -> dict[str, Any]:
    """Train a proxy by DoReMi, on what its reference was not trained on."""
    corpus, config, place = bench.corpus, bench.config, bench.place(job)
    network = opened(bench, job.seed, whole=True).network
    windows = training_windows(corpus, job.parts, config.context)
    batch = proxy_batch(config, len(corpus.names))
    with np.load(bench.work / job.reference / REFERENCE) as kept:
        reference = [kept[f"arr_{number}"] for number in range(len(corpus.names))]
    trajectory = Trajectory.start(len(corpus.names))
    objective = proxy_objective(corpus.names, reference, trajectory, job.rate)
    whole = replace(
        config.training(job.steps, job.seed), batch=batch, room=batch * (config.context + 1)
    )
    order = fixed_order(proxy_order(windows, job.steps, batch, job.seed))
    trained = train(network, windows, objective, whole, place / "training", (), "proxy", order)
    return {
        "weights": trajectory.mean.tolist(),
        "history": [[row[f"weight {name}"] for name in corpus.names] for row in trained.history],
    }
