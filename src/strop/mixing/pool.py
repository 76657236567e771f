"""Many runs over several processes, each done once.

WORK/<hash>/result.json     what came of a run
WORK/<hash>/training        its state, from which it goes on if it was killed
WORK/<hash>/log.txt         what it said
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from typing import Any

from strop.console import progress
from strop.data import read_json, write_json
from strop.mixing.jobs import Bench, Job, check_bench
from strop.mixing.proxy import proxy
from strop.mixing.runs import plain
from strop.training.pool import each_done, logged

RESULT = "result.json"


def run_all(bench: Bench, jobs: Sequence[Job], label: str) -> list[dict[str, Any]]:
    """Make all runs that were not made yet, and return their results in order.

    Raises what a run raised, as soon as it did; runs that were finished stay.
    """
    check_bench(bench)
    waiting = {bench.digest(job): job for job in jobs if not (bench.place(job) / RESULT).exists()}
    tokens = bench.config.batch * bench.config.context
    if waiting:
        left = list(waiting.values())
        with progress(label, tokens * sum(job.steps for job in left), "tokens") as advance:
            for job in each_done(partial(make, bench), left, bench.processes, label):
                advance(tokens * job.steps)
    return [read_json(bench.place(job) / RESULT) for job in jobs]


def make(bench: Bench, job: Job) -> None:
    """Make a run, or go on with it, in this process."""
    place = bench.place(job)
    with logged(place / "log.txt"):
        write_json(place / RESULT, proxy(bench, job) if job.reference else plain(bench, job))
        shutil.rmtree(place / "training")
