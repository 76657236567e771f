"""How many examples are enough: trains on nested subsets, and says where the loss stops falling.

OUTPUT/runs.jsonl      size, seed, arm, steps and held-out loss of every run
OUTPUT/rejected.jsonl  rows that could not be read
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

import strop
from strop.console import say
from strop.data import sha256_file, sha256_json, write_rows, write_text
from strop.data.instructions import read_instructions, report_unread, unique
from strop.errors import StropError, unknown_name
from strop.models.identity import model_identity
from strop.selection.curve import LEAST_SIZES, MOST_SEEDS, Enough, Run, enough
from strop.selection.subset import Item, in_order, items_of, losses_of_run, split
from strop.stage import REJECTED, Facts, finished, rows_path, run_stage
from strop.stats import ratio
from strop.svg import Line, lines, standalone
from strop.training.network import NetworkConfig, Source, open_source
from strop.training.schedule import TrainingConfig, check_seed
from strop.tuning.tune import SFT_RATE

MOST_HALVINGS = 30  #: of more examples than anybody has
ARMS = ("epochs", "steps")  #: what subsets of all sizes have in common
RUNS, CURVES = "runs.jsonl", "curves.svg"


@dataclass(frozen=True)
class HowManyConfig:
    """Which runs are made."""

    halvings: int = 5  #: sizes: all of the examples, a half, a quarter, ...
    seeds: int = 3  #: runs of each size, each on subsets of its own
    seed: int = 0  #: the first of them
    arms: tuple[str, ...] = ARMS  #: equal epochs, equal steps, or both
    #: how the network is held
    network: NetworkConfig = field(default_factory=NetworkConfig)
    #: how it is trained with all of the examples; the seed is that of the run
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=SFT_RATE))

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if not LEAST_SIZES - 1 <= self.halvings <= MOST_HALVINGS:
            raise StropError(
                f"from {LEAST_SIZES - 1} to {MOST_HALVINGS} halvings are possible, not "
                f"{self.halvings}"
            )
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise StropError(f"from 1 to {MOST_SEEDS} seeds are possible, not {self.seeds}")
        check_seed(self.seed)
        for arm in self.arms:
            if arm not in ARMS:
                raise unknown_name("arm", arm, ARMS)
        if not self.arms:
            raise StropError(f"which arms? There are {', '.join(ARMS)}")
        if len(set(self.arms)) < len(self.arms):
            raise StropError(f"an arm is named twice: {', '.join(self.arms)}")


@dataclass(frozen=True)
class Job:
    """One run."""

    size: int
    seed: int
    arm: str
    epochs: float

    @property
    def run(self) -> tuple[int, int, float]:
        """Return what the loss depends on."""
        return self.size, self.seed, self.epochs


def how_many(
    model: str,
    data: Path,
    output: Path,
    config: HowManyConfig | None = None,
    work: Path | None = None,
) -> Facts:
    """Train on nested subsets of a file of instructions; say how many rows give 95% of the gain.

    A run that is done is kept; who is killed goes on where he was. Runs of an output that was made
    with other seeds, sizes or arms, and else with the same, are taken from there. Raises StropError
    for too few rows for the sizes.
    """
    config = config or HowManyConfig()
    path = rows_path(data, output)
    settings_of = {"model": model, **asdict(config)}
    inputs = {"model": model_identity(model), "data": sha256_file(path)}
    known = known_runs(output, settings_of, inputs)

    def make(directory: Path, place: Path) -> Facts:
        records = read_instructions(path)
        source = open_source(model)
        training, tested = split(items_of(unique(records.rows, path), source))
        jobs = planned(len(training), config)
        say(f"{len(jobs)} runs on up to {len(training):,} examples, {len(tested)} to test on")
        if done := sum(job.run in known for job in jobs):
            say(f"{done} of them are in {output} already")
        before = measured(source, config, tested, None, (), place)
        rows = []
        for number, job in enumerate(jobs, start=1):
            if job.run in known:
                rows.append({**asdict(job), "loss": known[job.run]})
                continue
            what = f"{job.size} examples, seed {job.seed}, equal {job.arm}"
            say(f"run {number} of {len(jobs)}: {what}")
            subset = in_order(training, job.seed)[: job.size]
            after = measured(source, config, tested, job, subset, place)
            rows.append({**asdict(job), "loss": after})
        report_unread(records, directory / REJECTED)
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

    return run_stage("how-many", output, settings_of, inputs, make, work)


def known_runs(
    output: Path, settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> dict[tuple[int, int, float], float]:
    """Return the losses of the runs that an output has, if only other runs are asked for now."""
    found = finished(output, "how-many")
    if found is None or found["inputs"] != inputs or found["strop"] != strop.__version__:
        return {}
    of_runs = ("halvings", "seeds", "seed", "arms")
    plain = [
        sha256_json({name: value for name, value in one.items() if name not in of_runs})
        for one in (found["settings"], settings)
    ]
    if plain[0] != plain[1]:
        return {}
    runs = found["facts"]["runs"]
    return {(row["size"], row["seed"], row["epochs"]): row["loss"] for row in runs}


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
        for seed in range(config.seed, config.seed + config.seeds)
        if arm == config.arms[0] or size < count  # all of them are the same run in both arms
    ]


def measured(
    source: Source,
    config: HowManyConfig,
    tested: Sequence[Item],
    job: Job | None,
    subset: Sequence[Item],
    work: Path,
) -> float:
    """Return the held-out loss of a token after a run, or before any; what is known is kept."""
    plan = asdict(job) if job else {}
    training = replace(config.training, epochs=job.epochs, seed=job.seed) if job else None
    place = work / f"run-{sha256_json(plan)[:16]}"
    losses = losses_of_run(source, config.network, training, subset, tested, place)
    return float(ratio(losses[None])[0])


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
