"""How to train: the settings of a run, and what follows from them for each of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from strop.errors import StropError, unknown_name

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")  #: that accelerate knows, of those named

LARGEST_SEED = 2**62  #: with room for the numbers of runs
MOST_EPOCHS = 1_000_000  #: far beyond any use, and steps can be counted


@dataclass(frozen=True)
class TrainingConfig:
    """How to train."""

    learning_rate: float = 1e-5  #: at its peak
    epochs: float = 1.0  #: how often each item is learned from
    batch: int = 32  #: items between two updates of the weights
    warmup: float = 0.1  #: part of the steps in which the learning rate rises from 0
    schedule: str = "cosine"  #: how it falls after that: see SCHEDULES
    weight_decay: float = 0.0  #: of AdamW
    clip: float = 1.0  #: largest norm of the gradient; 0: any
    room: int | None = None  #: tokens that are computed at a time (1,024), if no item has more
    evaluate_every: int = 0  #: steps between two evaluations; 0: a quarter of all
    patience: int = 0  #: evaluations without a better loss after which to stop; 0: never
    trackers: tuple[str, ...] = ()  #: tensorboard; wandb, mlflow or trackio, if installed
    seed: int = 0  #: for the order of the items

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        for name in ("learning_rate", "epochs", "batch", "room"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise StropError(f"{name} must be more than 0, not {value}")
        for name in ("weight_decay", "clip", "evaluate_every", "patience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise StropError(f"{name} must not be negative: {getattr(self, name)}")
        if self.epochs > MOST_EPOCHS:
            raise StropError(f"at most {MOST_EPOCHS:,} epochs are possible, not {self.epochs:g}")
        check_seed(self.seed)
        for tracker in self.trackers:
            if tracker not in TRACKERS:
                raise unknown_name("tracker", tracker, TRACKERS)
        if not 0 <= self.warmup <= 1:
            raise StropError(f"warmup must be from 0 to 1, not {self.warmup}")


def check_seed(seed: int) -> None:
    """Raise StropError for a seed that PyTorch cannot take, or those after it."""
    if not 0 <= seed < LARGEST_SEED:
        raise StropError(f"a seed is from 0 to {LARGEST_SEED - 1}, not {seed}")


#: Part of the run after the warm-up -> part of the peak learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda part: 0.5 * (1 + math.cos(math.pi * part)),
    "linear": lambda part: 1 - part,
    "constant": lambda part: 1.0,
}


def step_count(items: int, config: TrainingConfig) -> int:
    """Return the number of steps of a run."""
    return max(1, math.ceil(config.epochs * items / config.batch))


def batches(items: int, config: TrainingConfig, first: int, last: int) -> Iterator[list[int]]:
    """Yield the items of each step: every epoch is another permutation of all of them."""
    wanted = range(first * config.batch, min(last * config.batch, math.ceil(config.epochs * items)))
    order, epoch = np.zeros(0, np.int64), -1
    batch: list[int] = []
    for place in wanted:
        if place // items != epoch:
            epoch = place // items
            order = np.random.default_rng((config.seed, epoch)).permutation(items)
        batch.append(int(order[place % items]))
        if len(batch) == config.batch or place == wanted[-1]:
            yield batch
            batch = []


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    rising = math.ceil(config.warmup * steps)
    if step < rising:
        return config.learning_rate * (step + 1) / (rising + 1)
    return config.learning_rate * SCHEDULES[config.schedule](
        (step - rising) / max(1, steps - rising)
    )
