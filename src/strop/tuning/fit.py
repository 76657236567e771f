"""Training a network on items, and what came of it: its files, its figures, and what they show."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from strop.console import say
from strop.data import read_json, write_json, write_rows, write_text
from strop.errors import StropError
from strop.models.adapters import adapter_rank
from strop.models.machine import available_memory
from strop.models.memory import read_facts
from strop.stage import Facts
from strop.svg import standalone
from strop.training.fitting import SHARE, choose
from strop.training.loop import LOGS, Objective, train
from strop.training.memory import ROOM, Lengths
from strop.training.network import NetworkConfig, Source, Trainee, save_network
from strop.training.processes import processes
from strop.training.schedule import TrainingConfig
from strop.training.sequences import Group
from strop.tuning.curves import curves
from strop.tuning.diagnosis import diagnose
from strop.tuning.drift import Start
from strop.tuning.effect import Figures, effect, measure
from strop.tuning.items import split
from strop.tuning.origins import RANKER

HISTORY, CURVES = "history.jsonl", "curves.svg"
CHOSEN = "chosen.json"  #: in the work: what the machine decided
DRIFT_TOKENS = 4096  #: on which the distance from the start is measured, at most


@dataclass(frozen=True)
class TuneConfig:
    """What all tuning has in common."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    #: part of the prompts that is never trained on: on half of it the run is followed, on the other
    #: half its effect is measured
    held_out: float = 0.1

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if not 0 <= self.held_out < 1:
            raise StropError(f"held_out must be at least 0 and less than 1, not {self.held_out}")
        if self.training.patience and not self.held_out:
            raise StropError("stopping early needs held-out prompts: give held_out")

    def to_json(self) -> Facts:
        """Return the settings as JSON values."""
        values = asdict(self)
        values["training"]["trackers"] = list(self.training.trackers)
        return values


@dataclass(frozen=True)
class Parts:
    """Items, each with the hash of its prompt; the items of one prompt are in one part."""

    train: list[tuple[str, Any]]
    followed: list[tuple[str, Any]]  #: evaluated on while training; may choose the best weights
    tested: list[tuple[str, Any]]  #: on which nothing is chosen

    @classmethod
    def of(cls, items: Sequence[tuple[str, Any]], config: TuneConfig) -> Parts:
        """Split items by their prompts."""
        seed = config.training.seed
        train, held = split(items, config.held_out, seed)
        if not held:
            return cls(train, [], [])
        try:
            return cls(train, *split(held, 0.5, seed + 1))
        except StropError as error:
            raise StropError(
                f"{len(items)} prompts are too few to hold out {config.held_out:.0%}, half of it "
                "to follow the run and half to test it: give more, or hold out more, or none"
            ) from error


@dataclass(frozen=True)
class Fitted:
    """What came of training."""

    facts: Facts
    after: Figures  #: of the tested prompts; empty if there are none
    prompts: frozenset[str]  #: hashes of the prompts that were trained on, or chosen by


def fit(
    trainee: Trainee,
    parts: Parts,
    objective: Objective,
    config: TuneConfig,
    directory: Path,
    work: Path,
    label: str,
    drift: bool = True,
) -> Fitted:
    """Train, and write what came of it into a directory.

    With `drift`, also measure how far the network moved from its start.
    """
    network, tested = trainee.network, parts.tested
    groups = within([item.group for _, item in tested], DRIFT_TOKENS)
    keys = [key for key, _ in tested[: len(groups)]]
    room = config.training.room or ROOM
    start = Start(network, keys, groups, room) if drift and len(set(keys)) > 1 else None
    before = measure(network, tested, objective)
    trained = train(
        network,
        [item for _, item in parts.train],
        objective,
        config.training,
        work / "training",
        [item for _, item in parts.followed],
        label,
    )
    after = measure(network, tested, objective)
    save_network(trainee, directory)
    (directory / RANKER).unlink(missing_ok=True)  # what was a ranker need not be one any more
    logs = work / "training" / LOGS
    if logs.is_dir():
        shutil.copytree(logs, directory / LOGS)
    rows = [*trained.history, *trained.evaluations]
    write_rows(directory / HISTORY, sorted(rows, key=lambda row: (row["step"], row["kind"])))
    write_text(directory / CURVES, standalone(curves(trained.history, trained.evaluations)))
    facts: Facts = {
        "prompts": prompts(parts.train),
        "followed_prompts": prompts(parts.followed),
        "tested_prompts": prompts(tested),
        "processes": processes().num_processes,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "dtype": config.network.dtype,
        "checkpointing": config.network.checkpointing,
        "room": config.training.room,
        "weights": sum(one.numel() for one in network.parameters() if one.requires_grad),
        "diagnosis": diagnose(trained.history, trained.evaluations),
    }
    if prompts(tested) > 1:
        facts["effect"] = effect(before, after)
    if start:
        facts["kl_to_start"] = start.divergence(network).to_json()
    used = frozenset(key for key, _ in [*parts.train, *parts.followed])
    return Fitted(facts, after, used)


def within(groups: Sequence[Group], most: int) -> list[Group]:
    """Return the first groups whose completions have so many tokens together, at most."""
    scored = np.cumsum([sum(map(len, group.completions)) for group in groups])
    return list(groups[: int((scored <= most).sum())])


def settled(source: Source, parts: Parts, config: TuneConfig, work: Path) -> TuneConfig:
    """Choose what was left open by the memory that there is and the speed of this machine.

    What was chosen is kept in `work`: a run that goes on must add up in the same order.
    """
    network, training = config.network, config.training
    if None not in (network.dtype, network.checkpointing, training.room):
        return config
    note, everyone = work / CHOSEN, processes()
    if everyone.is_main_process and not note.exists():
        write_json(note, chosen(source, parts, config, everyone.num_processes))
    everyone.wait_for_everyone()
    found = read_json(note)
    try:
        network = replace(network, dtype=found["dtype"], checkpointing=found["checkpointing"])
        training = replace(training, room=found["room"])
    except (TypeError, KeyError) as error:
        raise StropError(f"{note} is damaged: remove it") from error
    return replace(config, network=network, training=training)


def chosen(source: Source, parts: Parts, config: TuneConfig, sharers: int) -> Facts:
    """Return dtype, checkpointing and room of processes on one machine, and say why those."""
    given = {
        key: value
        for key, value in vars(config.network).items()
        if key != "alpha" and value is not None
    }
    if source.adapter:
        given["rank"] = adapter_rank(source.adapter)
    network = replace(config.network, dtype="float32", checkpointing=False)
    room = config.training.room or ROOM
    try:
        facts = read_facts(source.directory)
    except StropError as error:
        say(f"float32, {room} tokens at a time: memory cannot be predicted ({error})")
    else:
        budget = int(SHARE * available_memory() / sharers)
        choice = choose(facts, longest(parts, config), budget, given, room)
        network, room = choice.network, choice.room
        say(choice.reason)
    return {
        "dtype": network.dtype,
        "checkpointing": network.checkpointing,
        "room": room,
    }


def longest(parts: Parts, config: TuneConfig) -> Lengths:
    """Return the lengths of the item that takes most to compute, as many times as a batch has."""
    items = [item for part in vars(parts).values() for _, item in part]
    group = max((item.group for item in items), key=lambda group: group.size)
    count = len(group.completions)
    completion = math.ceil((group.size - len(group.prompt)) / count)
    return Lengths(len(group.prompt), completion, count, config.training.batch)


def prompts(items: Sequence[tuple[str, Any]]) -> int:
    """Count different prompts."""
    return len({key for key, _ in items})
