"""The three things that are tuned: a model on examples, a ranker, and a model on preferences.

OUTPUT/adapter_config.json, adapter_model.safetensors     the adapter, in peft's format
OUTPUT/config.json, model.safetensors, ...                or the model, if all of it was trained
OUTPUT/history.jsonl, curves.svg, manifest.json, rejected.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from strop.console import say
from strop.data import (
    Preference,
    Records,
    Rejected,
    prompt_key,
    read_examples,
    read_preferences,
    report_rejected,
    sha256_file,
    write_rows,
    write_text,
)
from strop.errors import StropError
from strop.models.identity import model_identity
from strop.models.packing import copy_companions
from strop.models.torch_backend import quietly
from strop.stats import bootstrap, paired_difference, verdict, wilson
from strop.svg import standalone
from strop.training.loop import Objective, Trained, TrainingConfig, train
from strop.training.lora import adapters, save_adapter
from strop.training.network import NetworkConfig, Trainee, open_trainee
from strop.training.sequences import Group
from strop.tuning.curves import curves
from strop.tuning.diagnosis import diagnose
from strop.tuning.drift import Start
from strop.tuning.items import (
    Keyed,
    example_items,
    preference_items,
    split,
    with_others,
)
from strop.tuning.losses import Settings, loss_settings
from strop.tuning.objective import preference_objective
from strop.tuning.ranker import (
    RankerConfig,
    Reader,
    margins_of,
    ranker_objective,
    save_ranker_config,
)
from strop.tuning.reference import reference_logps
from strop.tuning.stage import REJECTED, Facts, rows_path, run_stage

SFT_RATE = RANKER_RATE = 2e-4  #: learning rates to start from, with adapters
HISTORY, CURVES = "history.jsonl", "curves.svg"


@dataclass(frozen=True)
class TuneConfig:
    """What all tuning has in common."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    held_out: float = 0.1  #: part of the prompts that is not trained on, but evaluated on

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if not 0 <= self.held_out < 1:
            raise StropError(f"held_out must be from 0 to 1, not {self.held_out}")
        if self.training.patience and not self.held_out:
            raise StropError("stopping early needs held-out prompts: give held_out")


def tune_sft(
    model: str,
    data: Path,
    output: Path,
    config: TuneConfig | None = None,
    columns: Mapping[str, str] | None = None,
    work: Path | None = None,
) -> Facts:
    """Train on examples: prompt, completion. The loss is the cross-entropy of the completions."""
    config = config or TuneConfig()
    loss, settings = loss_settings("best-of-n", {})

    def make(directory: Path, place: Path) -> Facts:
        records = read_examples(rows_path(data), columns)
        trainee = open_trainee(model, config.network, config.training.seed)
        items, too_long = example_items(records.rows, trainee.tokenizer, trainee.context_length)
        note_rejected(records, too_long, directory)
        train_items, held = split(items, config.held_out, config.training.seed)
        objective = preference_objective(loss, settings)
        return fit(trainee, train_items, held, objective, config, directory, place, "sft")

    return run_stage(
        "sft", output, facts_of(model, config, columns), identities(model, [data]), make, work
    )


def tune_preference(
    model: str,
    data: Sequence[Path],
    output: Path,
    loss: str = "slic",
    settings: Settings | None = None,
    config: TuneConfig | None = None,
    columns: Mapping[str, str] | None = None,
    work: Path | None = None,
) -> Facts:
    """Train on preferences with one of `LOSSES`; `settings` are the loss's own.

    Data are files of preferences, or outputs of `pairs`. Raises StropError for a loss or setting
    that is not known, and for data that lacks what the loss needs.
    """
    row, chosen = loss_settings(loss, settings or {})
    training = TrainingConfig(learning_rate=row.learning_rate)
    config = config or TuneConfig(training=training)

    def make(directory: Path, place: Path) -> Facts:
        parts = [read_preferences(rows_path(one), columns) for one in data]
        records = Records(
            [one for part in parts for one in part.rows],
            [one for part in parts for one in part.rejected],
        )
        trainee = open_trainee(model, config.network, config.training.seed)
        most = trainee.context_length
        items, too_long = preference_items(records.rows, trainee.tokenizer, most, row)
        note_rejected(records, too_long, directory)
        if row.needs_other:
            items = with_others(items)
        if row.needs_reference:
            items = with_reference(trainee, items, config, model_identity(model))
        train_items, held = split(items, config.held_out, config.training.seed)
        objective = preference_objective(row, chosen)
        return fit(trainee, train_items, held, objective, config, directory, place, loss)

    stage = {"loss": loss, "loss_settings": dict(chosen)}
    return run_stage(
        "preference",
        output,
        facts_of(model, config, columns) | stage,
        identities(model, data),
        make,
        work,
    )


def tune_ranker(
    model: str,
    data: Path,
    output: Path,
    ranker: RankerConfig | None = None,
    config: TuneConfig | None = None,
    columns: Mapping[str, str] | None = None,
    work: Path | None = None,
) -> Facts:
    """Train a ranker on preferences, and say how often it is right on held-out prompts.

    Its accuracy is compared with those of two rankers that need no training: the shorter answer
    wins, and the longer one wins.
    """
    ranker, config = ranker or RankerConfig(), config or TuneConfig()

    def make(directory: Path, place: Path) -> Facts:
        records = read_preferences(rows_path(data), columns)
        note_rejected(records, [], directory)
        trainee = open_trainee(model, config.network, config.training.seed)
        reader = Reader(trainee, ranker)
        keyed = [
            (prompt_key(one.prompt), reader.compared(one.prompt, (one.chosen, one.rejected)))
            for one in records.rows
        ]
        train_items, held = split(keyed, config.held_out, config.training.seed)
        objective = ranker_objective(reader)
        facts = fit(trainee, train_items, held, objective, config, directory, place, ranker.kind)
        save_ranker_config(ranker, directory)
        if held:
            chosen = {id(item) for _, item in held}
            rows = [
                one
                for one, (_, item) in zip(records.rows, keyed, strict=True)
                if id(item) in chosen
            ]
            right = right_of(reader, [item for _, item in held], config.training.room)
            facts |= accuracy_facts(right, rows)
        return facts

    return run_stage(
        "ranker",
        output,
        facts_of(model, config, columns) | asdict(ranker),
        identities(model, [data]),
        make,
        work,
    )


def fit(
    trainee: Trainee,
    items: Sequence[tuple[str, Any]],
    held: Sequence[tuple[str, Any]],
    objective: Objective,
    config: TuneConfig,
    directory: Path,
    work: Path,
    label: str,
) -> Facts:
    """Train, write what came of it into a directory, and return its figures."""
    network = trainee.network
    groups: list[Group] = [item.group for _, item in held]
    start = Start(network, groups, config.training.room) if len(groups) > 1 else None
    trained = train(
        network,
        [item for _, item in items],
        objective,
        config.training,
        work / "training",
        [item for _, item in held],
        label,
    )
    save_network(trainee, directory)
    rows = sorted(
        [*trained.history, *trained.evaluations], key=lambda row: (row["step"], row["kind"])
    )
    write_rows(directory / HISTORY, rows)
    plot = curves(trained.history, trained.evaluations)
    write_text(directory / CURVES, standalone(plot))
    diagnosis = diagnose(trained.history, trained.evaluations)
    say(diagnosis)
    facts: Facts = {
        "prompts": len(items),
        "held_out_prompts": len(held),
        "steps": trained.steps,
        "best_step": trained.best_step,
        "weights": sum(one.numel() for one in network.parameters() if one.requires_grad),
        "diagnosis": diagnosis,
        **ends(trained),
    }
    if start:
        facts["kl_to_start"] = start.divergence(network).to_json()
    return facts


def ends(trained: Trained) -> Facts:
    """Return the figures of the first and of the best evaluation; without any, of the steps."""
    if trained.evaluations:
        first = trained.evaluations[0]
        best = next(row for row in trained.evaluations if row["step"] == trained.best_step)
        return {"held_out": {"before": figures(first), "after": figures(best)}}
    return {
        "trained_on": {"before": figures(trained.history[0]), "after": figures(trained.history[-1])}
    }


def figures(row: Mapping[str, Any]) -> Facts:
    """Return the figures of a step or an evaluation."""
    return {key: value for key, value in row.items() if key not in ("kind", "step", "rate", "norm")}


def save_network(trainee: Trainee, directory: Path) -> None:
    """Write the adapter; or the whole model, if all of it was trained."""
    if adapters(trainee.network):
        base = Path(trainee.base).expanduser()
        save_adapter(
            trainee.network, str(base.resolve()) if base.exists() else trainee.base, directory
        )
        return
    with quietly():
        trainee.network.save_pretrained(directory)
    copy_companions(trainee.directory, directory)


def with_reference(
    trainee: Trainee, items: Sequence[Keyed], config: TuneConfig, identity: str
) -> list[Keyed]:
    """Give each item the log-probabilities before tuning."""
    network, room = trainee.network, config.training.room
    groups = [Group(item.prompt, item.candidates) for _, item in items]
    before = reference_logps(network, groups, identity, room)
    found = [
        (key, replace(item, reference=values))
        for (key, item), values in zip(items, before, strict=True)
    ]
    if not items[0][1].other:
        return found
    others = reference_logps(
        network, [Group(item.prompt, (item.other,)) for _, item in items], identity, room
    )
    return [
        (key, replace(item, other_reference=value))
        for (key, item), (value,) in zip(found, others, strict=True)
    ]


def right_of(reader: Reader, items: Sequence[Any], room: int) -> np.ndarray[Any, Any]:
    """Return 1 for each item whose better answer has the larger margin, 0.5 for ties, else 0."""
    right = np.zeros(len(items))
    for part, margins in margins_of(reader, items, room):
        for index, (first, second) in zip(part, margins, strict=True):
            right[index] = float(first > second) + 0.5 * (first == second)
    return right


def accuracy_facts(right: np.ndarray[Any, Any], rows: Sequence[Preference]) -> Facts:
    """Compare a ranker's accuracy with the better of the two rankers that look at lengths only."""
    shorter = np.array(
        [
            float(len(one.chosen) < len(one.rejected))
            + 0.5 * (len(one.chosen) == len(one.rejected))
            for one in rows
        ]
    )
    name, baseline = max(
        (("shorter", shorter), ("longer", 1 - shorter)), key=lambda pair: pair[1].mean()
    )
    if len(right) < 2:
        return {}
    difference = paired_difference(right, baseline)
    word = verdict(difference, lower_is_better=False)
    say(
        f'right on {right.mean():.1%} of {len(right)} held-out pairs; "the {name} answer wins" on '
        f"{baseline.mean():.1%}; difference {difference.scaled(100):+.1f} points: {word}"
    )
    return {
        "accuracy": bootstrap(right).to_json(),
        "baseline": name,
        "baseline_accuracy": wilson(round(baseline.sum()), len(baseline)).to_json(),
        "difference": difference.to_json(),
        "verdict": word,
    }


def facts_of(model: str, config: TuneConfig, columns: Mapping[str, str] | None) -> Facts:
    """Return the settings of a stage as JSON values."""
    values = asdict(config)
    values["training"]["trackers"] = list(config.training.trackers)
    return {"model": model, **values, "columns": dict(columns or {})}


def identities(model: str, data: Sequence[Path]) -> dict[str, str]:
    """Return the hashes of what a stage reads."""
    files = {f"data{number}": sha256_file(rows_path(one)) for number, one in enumerate(data)}
    return {"model": model_identity(model), **files}


def note_rejected(records: Records[Any], too_long: Sequence[Rejected], directory: Path) -> None:
    """Report the rows that are not used; StropError if none are left."""
    rejected = [*records.rejected, *too_long]
    total = len(records.rows) + len(records.rejected)
    report_rejected(rejected, total, directory / REJECTED)
    if len(too_long) == len(records.rows):
        raise StropError(f"no row is left to train on: {too_long[0].reason}")


__all__ = ["TuneConfig", "tune_preference", "tune_ranker", "tune_sft"]
