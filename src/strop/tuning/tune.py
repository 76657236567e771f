"""The three things that are tuned: a model on examples, a ranker, and a model on preferences.

OUTPUT/adapter_config.json, adapter_model.safetensors     the adapter, in peft's format
OUTPUT/config.json, model.safetensors, ...                or the model, if all of it was trained
OUTPUT/history.jsonl, curves.svg, manifest.json, origins.json, rejected.jsonl, ranker.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from strop.data import (
    Preference,
    Records,
    Rejected,
    prompt_key,
    read_examples,
    read_preferences,
    report_rejected,
    sha256_file,
)
from strop.errors import StropError
from strop.models.identity import model_identity
from strop.stage import REJECTED, Facts, rows_path, run_stage
from strop.stats import paired_difference, verdict, wilson
from strop.training.memory import ROOM
from strop.training.network import Trainee, open_source, open_trainee
from strop.training.schedule import TrainingConfig
from strop.training.sequences import Group
from strop.tuning.effect import Figures
from strop.tuning.fit import Parts, TuneConfig, fit, settled
from strop.tuning.items import Keyed, example_items, preference_items, with_others
from strop.tuning.losses import Settings, loss_settings
from strop.tuning.objective import preference_objective
from strop.tuning.origins import Origins, origins_of
from strop.tuning.ranker import (
    Compared,
    RankerConfig,
    Reader,
    ranker_objective,
    save_ranker_config,
)
from strop.tuning.reference import reference_logps

SFT_RATE = 2e-4  #: learning rate to start from, with adapters
RANKER_RATE = 1e-3  #: with 3e-4 some hundred pairs taught SmolLM2 next to nothing


def tune_sft(
    model: str,
    data: Path,
    output: Path,
    config: TuneConfig | None = None,
    columns: Mapping[str, str] | None = None,
    work: Path | None = None,
) -> Facts:
    """Train on examples: prompt, completion. The loss is the cross-entropy of the completions."""
    config = config or TuneConfig(training=TrainingConfig(learning_rate=SFT_RATE))
    loss, settings = loss_settings("best-of-n", {})

    def make(directory: Path, place: Path) -> Facts:
        records = read_examples(rows_path(data), columns)
        source = open_source(model)
        items, too_long = example_items(records.rows, source.tokenizer, source.context_length)
        note_rejected(records, too_long, directory)
        objective = preference_objective(loss, settings)
        parts = Parts.of(items, config)
        final = settled(source, parts, config, place)
        trainee = open_trainee(source, final.network, final.training.seed)
        fitted = fit(trainee, parts, objective, final, directory, place, "sft")
        (origins_of([place_of(model)]) | Origins(fitted.prompts)).write(directory)
        return fitted.facts

    settings_of = common(model, config, columns)
    return run_stage("sft", output, settings_of, identities(model, [data]), make, work)


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

    Data are files of preferences, or outputs of `pairs`, of which `columns` does not hold. Raises
    StropError for a loss or setting that is not known, and for data that lacks what the loss needs.
    """
    row, chosen = loss_settings(loss, settings or {})
    config = config or TuneConfig(training=TrainingConfig(learning_rate=row.learning_rate))

    def make(directory: Path, place: Path) -> Facts:
        records = joined([preferences_of(one, columns) for one in data])
        source = open_source(model)
        most = source.context_length
        items, too_long = preference_items(records.rows, source.tokenizer, most, row)
        note_rejected(records, too_long, directory)
        parts = Parts.of(items, config)
        final = settled(source, parts, config, place)
        trainee = open_trainee(source, final.network, final.training.seed)
        if row.needs_other:
            held = with_others([*parts.followed, *parts.tested], most)  # a half may be one prompt
            cut = len(parts.followed)
            parts = Parts(with_others(parts.train, most), held[:cut], held[cut:])
        if row.needs_reference:
            known = model_identity(model)
            every = (with_reference(trainee, one, final, known) for one in vars(parts).values())
            parts = Parts(*every)
        objective = preference_objective(row, chosen)
        fitted = fit(trainee, parts, objective, final, directory, place, loss)
        origins = origins_of([place_of(model), *data])
        (origins | Origins(fitted.prompts)).write(directory)
        return fitted.facts

    stage = {"loss": loss, "loss_settings": dict(chosen)}
    settings_of = common(model, config, columns) | stage
    return run_stage("preference", output, settings_of, identities(model, data), make, work)


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
    ranker = ranker or RankerConfig()
    config = config or TuneConfig(training=TrainingConfig(learning_rate=RANKER_RATE))

    def make(directory: Path, place: Path) -> Facts:
        records = preferences_of(data, columns)
        source = open_source(model)
        reader = Reader(source, ranker)
        items, equal = ranker_items(reader, records.rows)
        note_rejected(records, equal, directory)
        objective = ranker_objective(reader)
        parts = Parts.of(items, config)
        final = settled(source, parts, config, place)
        trainee = open_trainee(source, final.network, final.training.seed)
        kind = ranker.kind
        fitted = fit(trainee, parts, objective, final, directory, place, kind, drift=False)
        save_ranker_config(ranker, directory)
        (origins_of([place_of(model), data]) | Origins(fitted.prompts)).write(directory)
        return fitted.facts | accuracy(fitted.after)

    settings_of = common(model, config, columns) | asdict(ranker)
    return run_stage("ranker", output, settings_of, identities(model, [data]), make, work)


def preferences_of(place: Path, columns: Mapping[str, str] | None) -> Records[Preference]:
    """Read a file of preferences, or the output of a stage, whose columns are known."""
    return read_preferences(rows_path(place), None if place.is_dir() else columns)


def joined(parts: Sequence[Records[Preference]]) -> Records[Preference]:
    """Put the rows of several files one after another."""
    return Records(
        [one for part in parts for one in part.rows],
        [one for part in parts for one in part.lines],
        [one for part in parts for one in part.rejected],
    )


def ranker_items(
    reader: Reader, rows: Sequence[Preference]
) -> tuple[list[tuple[str, Compared]], list[Rejected]]:
    """Return an item for each row; answers that are equal as far as they are read are no pair."""
    items, rejected = [], []
    for number, row in enumerate(rows, start=1):
        item = reader.compared(row.prompt, (row.chosen, row.rejected))
        if len(set(item.group.completions)) < 2:
            reason = f"answers are equal in their first {reader.config.answer_tokens} tokens"
            rejected.append(Rejected(number, reason, vars(row)))
            continue
        better, worse = len(row.chosen), len(row.rejected)
        shorter = float(better < worse) + 0.5 * (better == worse)
        items.append((prompt_key(row.prompt), replace(item, shorter=shorter)))
    return items, rejected


def accuracy(figures: Figures) -> Facts:
    """Compare a ranker's accuracy with the better of the two that look at lengths only."""
    if "right" not in figures or len(figures["right"]) < 2:
        return {}
    right = figures["right"][:, 0] / figures["right"][:, 1]
    shorter = figures["shorter"][:, 0] / figures["shorter"][:, 1]
    n = len(right)
    name, baseline = max(
        (("shorter", shorter), ("longer", 1 - shorter)), key=lambda pair: float(pair[1].mean())
    )
    difference = paired_difference(right, baseline)
    return {
        "accuracy": wilson(float(right.sum()), n).to_json(),
        "baseline": name,
        "baseline_accuracy": wilson(float(baseline.sum()), n).to_json(),
        "difference": difference.to_json(),
        "verdict": verdict(difference, lower_is_better=False),
    }


def with_reference(
    trainee: Trainee, items: Sequence[Keyed], config: TuneConfig, identity: str
) -> list[Keyed]:
    """Give each item the log-probabilities before tuning."""
    network, room = trainee.network, config.training.room or ROOM
    groups = [Group(item.prompt, item.candidates) for _, item in items]
    before = reference_logps(network, groups, identity, room)
    found = [
        (key, replace(item, reference=values))
        for (key, item), values in zip(items, before, strict=True)
    ]
    if not all(item.other for _, item in items):
        return found
    others = [Group(item.prompt, (item.other,)) for _, item in items]
    return [
        (key, replace(item, other_reference=value))
        for (key, item), (value,) in zip(
            found, reference_logps(network, others, identity, room), strict=True
        )
    ]


def place_of(model: str) -> Path:
    """Return the directory that a model reference may be."""
    return Path(model).expanduser()


def common(model: str, config: TuneConfig, columns: Mapping[str, str] | None) -> Facts:
    """Return the settings that all tuning has, as JSON values."""
    return {"model": model, **config.to_json(), "columns": dict(columns or {})}


def identities(model: str, data: Sequence[Path]) -> dict[str, str]:
    """Return the hashes of what a stage reads."""
    files = {f"data{number}": sha256_file(rows_path(one)) for number, one in enumerate(data)}
    return {"model": model_identity(model), **files}


def note_rejected(records: Records[Any], others: Sequence[Rejected], directory: Path) -> None:
    """Report the rows that are not used; StropError if none are left."""
    total = len(records.rows) + len(records.rejected)
    every = [*records.rejected, *records.located(others)]
    report_rejected(every, total, directory / REJECTED)
    if len(others) == len(records.rows):
        raise StropError(f"no row is left to train on: {others[0].reason}")
