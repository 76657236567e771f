"""Many runs over several processes, each done once.

WORK/<hash>/result.json     what came of a run
WORK/<hash>/training        its state, from which it goes on if it was killed
WORK/<hash>/log.txt         what it said
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch

from strop.console import progress
from strop.data import make_directory, read_json, write_json
from strop.errors import StropFailure
from strop.mixing.jobs import Bench, Job, check_bench
from strop.mixing.proxy import proxy
from strop.mixing.runs import plain
from strop.models.machine import thread_count

RESULT = "result.json"


def run_all(bench: Bench, jobs: Sequence[Job], label: str) -> list[dict[str, Any]]:
    """Make all runs that were not made yet, and return their results in order.

    Raises what a run raised, as soon as it did; runs that were finished stay.
    """
    check_bench(bench)
    waiting = {bench.digest(job): job for job in jobs if not (bench.place(job) / RESULT).exists()}
    total = sum(job.steps for job in waiting.values()) * bench.config.batch * bench.config.context
    if waiting:
        count = min(bench.processes, len(waiting))
        threads = max(1, thread_count() // bench.processes)
        with progress(label, total, "tokens") as advance, workers(count, threads) as pool:
            futures = {pool.submit(make, bench, job): job for job in waiting.values()}
            for future in as_completed(futures):
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise StropFailure(
                        f"{label}: a process was killed, by lack of memory most likely: use fewer "
                        "processes, a smaller batch or a smaller model; the same command goes on"
                    ) from error
                job = futures[future]
                advance(job.steps * bench.config.batch * bench.config.context)
    return [read_json(bench.place(job) / RESULT) for job in jobs]


@contextmanager
def workers(count: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes that runs are given to; they end with the block, whatever ends it."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, spawn, prepare, (threads,))
    try:
        yield pool
    except BaseException:  # what they were at is kept, and gone on with
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def prepare(threads: int) -> None:
    """Set up a process for runs; it ends when the one that it works for does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=end_after, args=(parent,), daemon=True).start()


def end_after(parent: Any) -> None:
    """End this process once its parent is gone: killed, it could not tell."""
    parent.join()
    os._exit(1)


def make(bench: Bench, job: Job) -> None:
    """Make a run, or go on with it, in this process."""
    place = bench.place(job)
    make_directory(place)
    with (place / "log.txt").open("a", encoding="utf-8") as log:
        usual, sys.stderr = sys.stderr, log
        try:
            write_json(place / RESULT, proxy(bench, job) if job.reference else plain(bench, job))
            shutil.rmtree(place / "training")
        finally:
            sys.stderr = usual
