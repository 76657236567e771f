"""Final runs with several mixtures at equal tokens, and what the difference between them is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from strop.mixing.jobs import Bench, Job
from strop.mixing.optimum import Objective
from strop.mixing.pool import run_all
from strop.mixing.weights import Weights
from strop.stats import Interval, student

Result = dict[str, Any]  #: of a final run
Value = Callable[[Mapping[str, float]], float]  #: of losses by name


def final_runs(
    bench: Bench, mixtures: Mapping[str, Sequence[Weights]], tokens: float, seeds: Sequence[int]
) -> dict[str, list[Result]]:
    """Train with each mixture; each has weights for every seed. Returns a result for every seed."""
    steps = bench.config.steps(tokens)
    jobs = {
        name: [
            Job(tuple(one.tolist()), steps, seed, curve=True)
            for one, seed in zip(own, seeds, strict=True)
        ]
        for name, own in mixtures.items()
    }
    results = run_all(bench, [job for own in jobs.values() for job in own], "final runs")
    count = len(seeds)
    return {
        name: results[number * count : (number + 1) * count] for number, name in enumerate(jobs)
    }


def objective_value(objective: Objective, domains: Sequence[str]) -> Value:
    """Return the objective as a function of losses by name."""
    texts = objective.texts(domains)

    def value(losses: Mapping[str, float]) -> float:
        return float(objective.value(np.array([[losses[text] for text in texts]]))[0])

    return value


def difference(ours: Sequence[Result], theirs: Sequence[Result], value: Value) -> Interval | float:
    """Return ours - theirs on the test part, in nats, less than zero if ours is better.

    An interval over the seeds; of one seed only the number.
    """
    found = [value(a["test"]) - value(b["test"]) for a, b in zip(ours, theirs, strict=True)]
    return student(found) if len(found) > 1 else found[0]


def tokens_to_reach(result: Result, level: float, value: Value) -> float | None:
    """Return after how many tokens a run was as low as `level`, None if it never was.

    On the validation part, by straight lines between evaluations.
    """
    before: tuple[float, float] | None = None
    for row in result["curve"]:
        tokens, now = float(row["tokens"]), value(row["losses"])
        if now <= level:
            if before is None:
                return tokens
            return before[0] + (before[1] - level) / (before[1] - now) * (tokens - before[0])
        before = tokens, now
    return None


def final_value(result: Result, value: Value) -> float:
    """Return the value at the end of a run, on the validation part."""
    return value(result["curve"][-1]["losses"])
