"""Does choosing help: trains on what selectors choose and on random rows, and compares the runs.

OUTPUT/runs.jsonl          every run: rows, tokens, loss, figures of tasks
OUTPUT/rejected.jsonl      rows that could not be read; of the tests in tests-rejected.jsonl
OUTPUT/differences.svg     each selector against random rows, and against ones of the same lengths
OUTPUT/manifest.json       the same as numbers, with verdicts

The rows are dealt into parts, and each selector chooses from each: so it has runs that do not share
rows, and how much they differ says how far its luck goes. One choice, however often trained on, is
one draw. Random rows, and random rows with answers of the same lengths as those that a selector
chose, are drawn from the same parts by the same rules, and cost the same to train on.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from strop.console import progress, say
from strop.data import (
    make_directory,
    read_json,
    sha256_file,
    write_json,
    write_rows,
    write_text,
)
from strop.data.instructions import read_instructions, report_unread, unique
from strop.errors import StropError
from strop.evaluation.evaluate import prepare, sampled
from strop.evaluation.figures import LEAST
from strop.evaluation.kinds import kind_of
from strop.evaluation.tasks import Task, open_task
from strop.lm import LocalModel
from strop.models.identity import model_identity
from strop.selection.select import SelectConfig
from strop.selection.subset import ADAPTER, Item, losses_of_run
from strop.selection.trial_plan import Job, Runs, budget, parted, planned
from strop.selection.trial_report import (
    LOSS,
    UNTRAINED,
    Values,
    compared,
    cost_of,
    drawn,
    learned,
    means,
)
from strop.stage import REJECTED, Facts, rows_path, run_stage
from strop.svg import standalone
from strop.training.network import NetworkConfig, Source, open_source
from strop.training.pool import each_done, logged
from strop.training.schedule import TrainingConfig
from strop.tuning.sample import engine
from strop.tuning.tune import SFT_RATE

RUNS, DIFFERENCES = "runs.jsonl", "differences.svg"
TASKS = "tasks"  #: what is kept of them, in the place of a run
TESTS_REJECTED = "tests-rejected.jsonl"


@dataclass(frozen=True)
class TrialConfig:
    """Which runs are made, and what is measured after each."""

    runs: Runs = field(default_factory=Runs)  #: how many
    tasks: tuple[str, ...] = ()  #: that each tuned model is asked, see strop eval
    limit: int = 100  #: rows of each task; 0: all
    #: how the network is held
    network: NetworkConfig = field(default_factory=NetworkConfig)
    #: how it is trained; the seed is that of the run
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(learning_rate=SFT_RATE))

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.limit < 0:
            raise StropError(f"limit must not be negative: {self.limit}")


def trial(
    model: str,
    data: Path,
    output: Path,
    selectors: Mapping[str, SelectConfig],
    config: TrialConfig | None = None,
    tests: Path | None = None,
    processes: int = 1,
    work: Path | None = None,
) -> Facts:
    """Train on what each selector keeps of a file of scored rows, and on random rows; compare.

    Losses are measured on the rows of `tests`, whose prompts are not trained on, or on a tenth of
    the prompts. So many runs are made at a time; one that is done is kept, and who is killed goes
    on where he was. Raises StropError for selectors that keep no stated number of rows, or less of
    a part than that.
    """
    config = config or TrialConfig()
    keep = budget(selectors)
    path = rows_path(data, output)
    prepared = [prepare(name, config.limit) for name in config.tasks]
    if len({one.task.name for one in prepared}) != len(prepared):
        raise StropError("two tasks have one name")
    embedders = sorted({one.model for one in selectors.values() if one.embeds})
    inputs = {"model": model_identity(model), "data": sha256_file(path)}
    inputs |= {f"task{number}": one.hash for number, one in enumerate(prepared)}
    inputs |= {f"embedder {name}": model_identity(name) for name in embedders}
    if tests is not None:
        inputs["tests"] = sha256_file(rows_path(tests, output))
    settings = {
        "model": model,
        "selectors": {name: asdict(one) for name, one in selectors.items()},
        **asdict(config),
    }

    def make(directory: Path, place: Path) -> Facts:
        records = read_instructions(path)
        source = open_source(model)
        unread = directory / TESTS_REJECTED
        training, tested = parted(unique(records.rows, path), tests, source, unread)
        jobs = list(planned(training, selectors, config.runs, keep, place))
        say(f"{len(jobs)} runs on {keep} rows each, tested on {len(tested)}")
        runner = Runner(source, config, tested, place)
        before = runner.measured(None)
        check_answered(before)
        lower = {LOSS: True} | {measure_of(one.task): one.kind.loss for one in prepared}
        once = list({job.name: job for job in jobs}.values())  # two selectors may choose the same
        with progress("trial", sum(job.tokens for job in once), "tokens") as advance:
            for job in each_done(partial(make_run, runner), once, processes, "trial"):
                advance(job.tokens)
        found = [(job, runner.measured(job)) for job in jobs]
        report_unread(records, directory / REJECTED)
        write_rows(directory / RUNS, ({**job.facts, **means(values)} for job, values in found))

        def measure(runs: Sequence[tuple[Job, Values]], base: Values, lower: bool) -> Facts:
            return {"learned": learned(runs, base), **compared(runs, selectors, lower)}

        facts: Facts = {
            "rows": len(training),
            "tested": len(tested),
            "keep": keep,
            "runs": asdict(config.runs),
            UNTRAINED: means(before),
            "measures": {
                name: measure([(job, one[name]) for job, one in found], before[name], lower[name])
                for name in before
            },
            "cost": cost_of([job for job, _ in found]),
        }
        write_text(directory / DIFFERENCES, standalone(drawn(facts["measures"][LOSS])))
        return facts

    return run_stage("trial", output, settings, inputs, make, work)


def check_answered(before: Mapping[str, Values]) -> None:
    """Raise StropError for a measure of which too few rows are known, before hours of training."""
    for name, values in before.items():
        known = int((~np.isnan(values[:, 0])).sum())
        if known < LEAST:
            raise StropError(
                f"{name}: the model answers {known} of {len(values)} rows, and {LEAST} are needed"
            )


def make_run(runner: Runner, job: Job) -> None:
    """Make a run, or go on with it, in a process that says nothing to the user."""
    with logged(runner.place(job) / "log.txt"):
        runner.measured(job)


@dataclass(frozen=True)
class Runner:
    """What all runs have in common."""

    source: Source
    config: TrialConfig
    tested: Sequence[Item]
    work: Path

    def place(self, job: Job | None) -> Path:
        """Return where a run is kept."""
        return self.work / (job.name if job else UNTRAINED)

    def measured(self, job: Job | None) -> dict[str, Values]:
        """Train, or not, and return what is measured of each tested row."""
        place = self.place(job)
        make_directory(place)
        training = replace(self.config.training, seed=job.seed) if job else None
        found = {
            LOSS: losses_of_run(
                self.source,
                self.config.network,
                training,
                job.items if job else (),
                self.tested,
                place,
                keep_adapter=bool(self.config.tasks),
            )
        }
        return found | self.asked(place, str(place / ADAPTER) if job else self.source.reference)

    def asked(self, place: Path, reference: str) -> dict[str, Values]:
        """Return the first figure of each task for each row, NaN where the model has no answer."""
        tasks = {name: open_task(name) for name in self.config.tasks}
        folder = place / TASKS
        notes = {name: folder / f"{task.name}.json" for name, task in tasks.items()}
        left = [name for name, note in notes.items() if not note.is_file()]
        if left:
            with tempfile.TemporaryDirectory(dir=place) as packed:
                tuned = engine(reference, Path(packed))
                for name in left:
                    one = prepare(name, self.config.limit)
                    samples = sampled(one, LocalModel(tuned, chat=one.kind.chat), folder)
                    figure = first_figure(one.task)
                    write_json(notes[name], [sample.get(figure) for sample in samples])
        return {
            measure_of(tasks[name]): np.array([weighted(value) for value in read_json(note)])
            for name, note in notes.items()
        }


def first_figure(task: Task) -> str:
    """Return the figure of a task that counts."""
    return kind_of(task).figures(task)[0]


def measure_of(task: Task) -> str:
    """Return what a task's figure is called among the measures."""
    return f"{task.name}, {first_figure(task)}"


def weighted(value: Any) -> tuple[float, float]:
    """Return a figure with its weight: [sum, count] as it is, a number with the weight 1."""
    if value is None:
        return math.nan, 1.0
    if isinstance(value, list):
        total, count = value
        return float(total), float(count)
    return float(value), 1.0
