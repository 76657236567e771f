"""A few steps of training on random tokens, to measure what was predicted.

python -m strop.training.trial SETTINGS; SETTINGS is a JSON object with the arguments of `tune`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from strop.models.environment import peak_memory
from strop.models.trial import Measured, answer
from strop.training.loop import Objective, Row, train
from strop.training.network import NetworkConfig, open_trainee
from strop.training.schedule import TrainingConfig
from strop.training.scoring import token_logps
from strop.training.sequences import Group, lay_out

STEPS = 3


@dataclass(frozen=True)
class Sample:
    """A prompt with completions."""

    group: Group


def tune(
    model: str,
    rank: int,
    dtype: str,
    checkpointing: bool,
    prompt: int,
    completion: int,
    completions: int,
    groups: int,
) -> Measured:
    """Train for some steps of `groups` prompts at a time, and evaluate before and after."""
    config = NetworkConfig(rank=rank, dtype=dtype, checkpointing=checkpointing)
    network = open_trainee(model, config).network
    random = np.random.default_rng(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(random.integers(0, network.config.vocab_size, count).tolist())

    samples = [
        Sample(Group(tokens(prompt), tuple(tokens(completion) for _ in range(completions))))
        for _ in range(STEPS * groups + 1)
    ]
    starts = []

    def loss(
        network: Any, items: Sequence[Sample], shared: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[Row]]:
        if torch.is_grad_enabled():
            starts.append(perf_counter())
        logps = token_logps(network, lay_out([item.group for item in items], network.device))
        return -logps.mean(), [{} for _ in items]

    training = TrainingConfig(
        learning_rate=1e-6,
        batch=groups,
        room=groups * samples[0].group.size,
        evaluate_every=STEPS,
    )
    with tempfile.TemporaryDirectory() as work:
        train(network, samples[1:], Objective(loss), training, Path(work), samples[:1])
    # The first step is slower: it takes its memory from the system.
    return {
        "peak_bytes": float(peak_memory()),
        "seconds": float(np.min(np.diff(starts))) / groups,
    }


if __name__ == "__main__":
    answer(tune)
