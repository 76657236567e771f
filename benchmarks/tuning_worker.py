"""Time our trainer.

tuning_worker.py LOSS TYPE MODEL PAIRS STEPS THREADS FOLDER
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from strop.training.loop import train
from strop.training.network import NetworkConfig, open_trainee
from strop.training.schedule import TrainingConfig
from strop.tuning.losses import loss_settings
from strop.tuning.objective import Candidates, preference_objective


def main() -> None:
    loss, dtype, model, pairs, steps, threads, folder = sys.argv[1:]
    torch.set_num_threads(int(threads))
    trainee = open_trainee(model, NetworkConfig(rank=8, alpha=16.0, dtype=dtype))
    tokenizer = trainee.source.tokenizer
    end = tokenizer.encode("<|im_end|>", special=False)
    rows = [json.loads(line) for line in Path(pairs).read_text(encoding="utf-8").splitlines()]
    items = []
    for row in rows:
        prompt, chosen, rejected = (
            tokenizer.encode(row[name], special=False) for name in ("prompt", "chosen", "rejected")
        )
        both = (tuple(chosen + end), tuple(rejected + end))
        items.append(Candidates(tuple(prompt), both, both[0], reference=(0.0, 0.0)))
    row, settings = loss_settings(loss, {})
    objective = preference_objective(row, settings)
    times = []

    def timed(*arguments: object) -> object:
        times.append(time.perf_counter())
        return objective.loss(*arguments)

    config = TrainingConfig(learning_rate=1e-6, epochs=(int(steps) + 2) / len(items), batch=1)
    train(trainee.network, items, replace(objective, loss=timed), config, Path(folder))
    seconds = [after - before for before, after in itertools.pairwise(times)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("RESULT " + json.dumps({"seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
