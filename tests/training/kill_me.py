"""Train in a process that is killed, or in two: `kill_me.py WORK` prints losses and weights."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tests.training.networks import llama, some_tokens

from strop.training import loop
from strop.training.loop import train
from strop.training.lora import add_lora
from strop.training.schedule import TrainingConfig
from strop.tuning.losses import loss_settings
from strop.tuning.objective import Candidates, preference_objective


def items(count: int) -> list[Candidates]:
    """Return pairs of candidates."""
    random = np.random.default_rng(0)
    return [
        Candidates(
            some_tokens(random),
            (some_tokens(random), some_tokens(random)),
            some_tokens(random),
            reference=(-20.0, -21.0),
            values=(1.0, 0.2),
            other=some_tokens(random),
            other_reference=-18.0,
        )
        for _ in range(count)
    ]


def main(work: Path, loss: str, every_step: int, stop_after: int, bad_item: int) -> None:
    """Train, and print what came out."""
    network = llama()
    torch.manual_seed(0)
    add_lora(network, 4, 8.0)
    row, settings = loss_settings(loss, {})
    objective = preference_objective(row, settings)
    pairs = items(40)
    taken = 0

    def counted(*arguments: Any) -> Any:
        nonlocal taken
        total, rows = objective.loss(*arguments)
        if any(item is pairs[9 + bad_item] for item in arguments[1]) and bad_item >= 0:
            total = total * float("nan")
        if torch.is_grad_enabled():
            taken += 1
            # Of two processes only the second one is told.
            if taken == stop_after and os.environ.get("RANK", "1") == "1":
                os.kill(os.getpid(), signal.SIGINT)
        return total, rows

    if every_step:
        loop.SAVING = 1e9
    # The last of 31 items is a batch of its own.
    config = TrainingConfig(learning_rate=1e-2, epochs=3, batch=6, evaluate_every=5)
    changed = replace(objective, loss=counted)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    trained = train(network, pairs[9:], changed, config, work, held_out=pairs[:9])
    weights = [one.detach().numpy() for one in network.parameters() if one.requires_grad]
    digest = hashlib.sha256(b"".join(one.tobytes() for one in weights)).hexdigest()
    found = {
        "losses": [row["loss"] for row in trained.history],
        "weights": digest,
        "processes": PartialState().num_processes,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
