"""Train on some rows and measure on others: what every question about data comes down to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strop.console import say
from strop.data import (
    held_out,
    make_directory,
    prompt_key,
    read_json,
    sha256_json,
    write_json,
)
from strop.data.instructions import Instruction
from strop.errors import StropError
from strop.training.loop import train
from strop.training.memory import ROOM
from strop.training.network import (
    NetworkConfig,
    Source,
    open_trainee,
    save_network,
)
from strop.training.schedule import TrainingConfig
from strop.tuning.encode import TooLong, answer_ids, check_length, prompt_ids
from strop.tuning.losses import loss_settings
from strop.tuning.objective import Candidates, preference_objective
from strop.tuning.reference import computed

TEST = 0.1  #: of the prompts that losses are measured on
MOST_TESTED = 200  #: rows that they are measured on
LEAST_TESTED = 8  #: rows, or the losses would say little
LOSSES, ADAPTER = "losses.json", "adapter"  #: what is kept of a run
OBJECTIVE = preference_objective(*loss_settings("best-of-n", {}))  #: cross-entropy of the answers

Item = tuple[Instruction, Candidates]  #: a row, and what is learned from it


def items_of(rows: Sequence[Instruction], source: Source) -> list[Item]:
    """Return what is learned from each row; those that do not fit the context are left out."""
    found = []
    for one in rows:
        prompt = prompt_ids(source.tokenizer, one.prompt)
        answer = answer_ids(source.tokenizer, one.completion)
        try:
            check_length(prompt, (answer,), source.context_length)
        except TooLong:
            continue
        found.append((one, Candidates(prompt, (answer,), answer, pairs=())))
    if left := len(rows) - len(found):
        say(f"{left} of {len(rows)} rows are longer than the context of the model")
    return found


def split(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return the rows to train on, and those that all runs are tested on, by their prompts.

    Of more than `MOST_TESTED` random ones are tested: the first may be the best of a selection.
    """
    outside = [held_out(prompt_key(one.prompt), TEST) for one, _ in items]
    training = [item for item, out in zip(items, outside, strict=True) if not out]
    tested = [item for item, out in zip(items, outside, strict=True) if out]
    check_tested(tested)
    return training, in_order(tested, 0)[:MOST_TESTED]


def check_tested(tested: Sequence[Item]) -> None:
    """Raise StropError for too few rows to test on."""
    if len(tested) < LEAST_TESTED:
        raise StropError(f"{len(tested)} rows to test on: at least {LEAST_TESTED} are needed")


def in_order(items: Sequence[Item], seed: int) -> list[Item]:
    """Return items in the random order of a seed, the same wherever they stand."""
    return sorted(items, key=lambda item: sha256_json([seed, item[0].key]))


def losses_of_run(
    source: Source,
    network: NetworkConfig,
    training: TrainingConfig | None,
    items: Sequence[Item],
    tested: Sequence[Item],
    place: Path,
    keep_adapter: bool = False,
) -> NDArray[np.float64]:
    """Train, or not, and return the loss and the tokens of each tested row, (n, 2).

    A run that is done is kept in its place; one that was killed goes on where it was.
    """
    note = place / LOSSES
    if not note.is_file():
        seed = training.seed if training else 0
        config = replace(network, dtype=network.dtype or "float32")
        trainee = open_trainee(source, config, seed)
        if training:
            settings = replace(training, room=training.room or ROOM)
            subset = [one for _, one in items]
            train(trainee.network, subset, OBJECTIVE, settings, place, label="run")
            if keep_adapter:
                make_directory(place / ADAPTER)
                save_network(trainee, place / ADAPTER)
        groups = [one.group for _, one in tested]
        logps = [found for (found,) in computed(trainee.network, groups, ROOM)]
        losses = zip(logps, tested, strict=True)
        write_json(note, [(-logp, len(one.target)) for logp, (_, one) in losses])
    return np.array(read_json(note), dtype=np.float64)
