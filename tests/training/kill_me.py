"""Train in a process that is killed, or in two: `kill_me.py WORK` prints losses and weights."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from tests.training.networks import llama, some_tokens

from strop.training.loop import TrainingConfig, train
from strop.training.lora import add_lora
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


def main(work: Path, loss: str = "slic") -> None:
    """Train, and print what came out."""
    network = llama()
    add_lora(network, 4, 8.0)
    row, settings = loss_settings(loss, {})
    objective = preference_objective(row, settings)
    config = TrainingConfig(learning_rate=1e-2, epochs=4, batch=7, room=60, evaluate_every=5)
    pairs = items(40)
    trained = train(network, pairs[9:], objective, config, work, held_out=pairs[:9])
    weights = [one.detach().numpy() for one in network.parameters() if one.requires_grad]
    digest = hashlib.sha256(b"".join(one.tobytes() for one in weights)).hexdigest()
    print(json.dumps({"losses": [row["loss"] for row in trained.history], "weights": digest}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
