"""How many examples are enough: trains on nested subsets, and says where the loss stops falling.

OUTPUT/runs.jsonl      size, seed, arm, steps and held-out loss of every run
OUTPUT/curves.svg      the losses by size
OUTPUT/manifest.json   the answer, for each arm

With equal epochs small subsets are also trained for fewer steps; with equal steps they are read
more often. What more examples give at the price of more computing is the first, what they give at
the same price the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from strop.console import say
from strop.data import (
    held_out,
    prompt_key,
    read_json,
    report_rejected,
    sha256_file,
    sha256_json,
    write_json,
    write_rows,
    write_text,
)
from strop.data.instructions import Instruction, read_instructions, unique
from strop.errors import StropError, unknown_name
from strop.models.identity import model_identity
from strop.selection.curve import LEAST_SIZES, Enough, Run, enough
from strop.stage import REJECTED, Facts, rows_path, run_stage
from strop.stats import ratio
from strop.svg import Line, lines, standalone
from strop.training.loop import Objective, train
from strop.training.memory import ROOM
from strop.training.network import NetworkConfig, Source, open_source, open_trainee
from strop.training.schedule import TrainingConfig
from strop.tuning.effect import measure
from strop.tuning.encode import TooLong, answer_ids, check_length, prompt_ids
from strop.tuning.losses import loss_settings
from strop.tuning.objective import Candidates, preference_objective
from strop.tuning.tune import SFT_RATE

ARMS = ("epochs", "steps")  #: what subsets of all sizes have in common
RUNS, CURVES = "runs.jsonl", "curves.svg"
TEST = 0.1  #: of the prompts that losses are measured on
MOST_TESTED = 200  #: prompts that they are measured on
LEAST_TESTED = 8  #: prompts, or the losses would say little

Item = tuple[str, Candidates]  #: the hash of a prompt, and what is learned from it


@dataclass(frozen=True)
class HowManyConfig:
    """Which runs are made."""

    halvings: int = 5  #: sizes: all of the examples, a half, a quarter, ...
    seeds: int = 3  #: runs of each size, each on subsets of its own
    arms: tuple[str, ...] = ARMS  #: equal epochs, equal steps, or both
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=SFT_RATE))

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.halvings < LEAST_SIZES - 1 or self.seeds < 1:
            raise StropError(f"at least {LEAST_SIZES - 1} halvings and a seed are needed")
        for arm in self.arms:
            if arm not in ARMS:
                raise unknown_name("arm", arm, ARMS)
        if not self.arms:
            raise StropError(f"which arms? There are {', '.join(ARMS)}")


@dataclass(frozen=True)
class Job:
    """One run."""

    size: int
    seed: int
    arm: str
    epochs: float


def how_many(
    model: str,
    data: Path,
    output: Path,
    config: HowManyConfig | None = None,
    work: Path | None = None,
) -> Facts:
    """Train on nested subsets of a file of instructions; say how many rows give 95% of the gain.

    A run that is done is kept; who is killed goes on where he was. Raises StropError for too few
    rows for the sizes.
    """
    config = config or HowManyConfig()
    path = rows_path(data)

    def make(directory: Path, place: Path) -> Facts:
        records = read_instructions(path)
        source = open_source(model)
        training, tested = split(items_of(unique(records.rows, path), source))
        loss, settings = loss_settings("best-of-n", {})
        objective = replace(preference_objective(loss, settings), keep_best=False)
        jobs = planned(len(training), config)
        say(f"{len(jobs)} runs on up to {len(training):,} examples, {len(tested)} to test on")
        before = measured(source, config, objective, tested, None, (), place)
        rows = []
        for number, job in enumerate(jobs, start=1):
            what = f"{job.size} examples, seed {job.seed}, equal {job.arm}"
            say(f"run {number} of {len(jobs)}: {what}")
            subset = [one for _, one in ordered(training, job.seed)[: job.size]]
            after = measured(source, config, objective, tested, job, subset, place)
            rows.append({**asdict(job), "loss": after})
        report_rejected(records.rejected, len(records.rows), directory / REJECTED)
        write_rows(directory / RUNS, rows)
        write_text(directory / CURVES, standalone(drawn(rows, config.arms)))
        answers = {arm: answer_of(rows, arm, before) for arm in config.arms}
        return {
            "examples": len(training),
            "tested": len(tested),
            "untrained": before,
            "runs": rows,
            "answers": answers,
        }

    settings_of = {"model": model, **asdict(config)}
    inputs = {"model": model_identity(model), "data": sha256_file(path)}
    return run_stage("how-many", output, settings_of, inputs, make, work)


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
        found.append((prompt_key(one.prompt), Candidates(prompt, (answer,), answer, pairs=())))
    if left := len(rows) - len(found):
        say(f"{left} of {len(rows)} rows are longer than the context of the model")
    return found


def split(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return the rows to train on, and those that all runs are tested on, by their prompts."""
    training = [one for one in items if not held_out(one[0], TEST)]
    tested = [one for one in items if held_out(one[0], TEST)][:MOST_TESTED]
    if len(tested) < LEAST_TESTED:
        raise StropError(f"{len(items)} rows leave {len(tested)} to test on: too few to tell")
    return training, tested


def planned(count: int, config: HowManyConfig) -> list[Job]:
    """Return the runs: the smallest sizes first, so that something is known soon."""
    sizes = [count >> halving for halving in reversed(range(config.halvings + 1))]
    if sizes[0] < 1 or len(set(sizes)) < len(sizes):
        raise StropError(f"{count} examples cannot be halved {config.halvings} times")
    epochs = config.training.epochs
    return [
        Job(size, seed, arm, epochs if arm == "epochs" else epochs * count / size)
        for size in sizes
        for arm in config.arms
        for seed in range(config.seeds)
        if arm == config.arms[0] or size < count  # all of them are the same run in both arms
    ]


def ordered(items: Sequence[Item], seed: int) -> list[Item]:
    """Return items in the order by which a seed takes them into its subsets."""
    return sorted(items, key=lambda one: sha256_json([seed, one[0], list(one[1].target)]))


def measured(
    source: Source,
    config: HowManyConfig,
    objective: Objective,
    tested: Sequence[Item],
    job: Job | None,
    subset: Sequence[Candidates],
    work: Path,
) -> float:
    """Return the held-out loss of a token after a run, or before any; what is known is kept."""
    plan = asdict(job) if job else {}
    place = work / f"run-{sha256_json(plan)[:16]}"
    note = place / "loss.json"
    if not note.is_file():
        seed = job.seed if job else 0
        network = replace(config.network, dtype=config.network.dtype or "float32")
        trainee = open_trainee(source, network, seed)
        if job:
            settings = replace(
                config.training, epochs=job.epochs, seed=seed, room=config.training.room or ROOM
            )
            train(trainee.network, subset, objective, settings, place, label="run")
        rows = measure(trainee.network, tested, objective)["loss"]
        write_json(note, float(ratio(rows[None])[0]))
    return float(read_json(note))


def answer_of(rows: Sequence[Mapping[str, Any]], arm: str, untrained: float) -> dict[str, Any]:
    """Return how many examples are enough, as JSON values."""
    full = max(row["size"] for row in rows)
    runs = [
        Run(row["size"], row["seed"], row["loss"])
        for row in rows
        if row["arm"] == arm or row["size"] == full
    ]
    found: Enough = enough(runs, untrained)
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "size": found.size and found.size.to_json(),
        "gain": found.gain and found.gain.to_json(),
        "slope": found.slope and found.slope.to_json(),
        "more_seeds": found.more_seeds,
    }


def drawn(rows: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> str:
    """Draw the losses of each arm by the logarithm of the size."""
    full = max(row["size"] for row in rows)
    plots = []
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm or row["size"] == full]
        seeds = sorted({row["seed"] for row in own})
        curves = [
            Line(
                f"seed {seed}",
                tuple(
                    (float(np.log2(row["size"])), row["loss"])
                    for row in sorted(own, key=lambda row: row["size"])
                    if row["seed"] == seed
                ),
            )
            for seed in seeds
        ]
        plots.append((f"held-out loss, equal {arm}", curves))
    return lines(plots, "log₂ of the examples")


def spelled(facts: Mapping[str, Any]) -> str:
    """Say the answers."""
    found = [
        f"held-out loss before training: {facts['untrained']:.3f} nats per token "
        f"(n = {facts['tested']} prompts)"
    ]
    for arm, one in facts["answers"].items():
        line = f"equal {arm}: {one['verdict']}: {one['reason']}"
        if one["verdict"] == "cannot tell" and one["more_seeds"]:
            line += f"; {one['more_seeds']} more seeds are expected to tell"
        found.append(line)
    return "\n".join(found)
