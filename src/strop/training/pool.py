"""Work that is done in several processes at once, each with its share of the threads.

Two runs of a small model on a core each take less time than one after another on both.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from strop.data import make_directory
from strop.errors import StropFailure
from strop.models.machine import thread_count

Job = TypeVar("Job")


def each_done(
    make: Callable[[Job], None], jobs: Sequence[Job], processes: int, label: str
) -> Iterator[Job]:
    """Let processes of their own make each job, and yield it when it is done, in any order.

    Raises what a job raised, as soon as it did; StropFailure if a process was killed.
    """
    threads = max(1, thread_count() // processes)
    with workers(min(processes, len(jobs)), threads) as pool:
        futures = {pool.submit(make, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                future.result()
            except BrokenProcessPool as error:
                raise StropFailure(
                    f"{label}: a process was killed, by lack of memory most likely: use fewer "
                    "processes, a smaller batch or a smaller model; the same command goes on"
                ) from error
            yield futures[future]


@contextmanager
def workers(count: int, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes that jobs are given to; they end with the block, whatever ends it."""
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
    """Set up a process for jobs; it ends when the one that it works for does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    torch.set_num_threads(threads)
    os.environ["STROP_THREADS"] = str(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=end_after, args=(parent,), daemon=True).start()


def end_after(parent: Any) -> None:
    """End this process once its parent is gone: killed, it could not tell."""
    parent.join()
    os._exit(1)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Write to a file what would be said to the user, for whom others say it."""
    make_directory(path.parent)
    with path.open("a", encoding="utf-8") as log:
        usual, sys.stderr = sys.stderr, log
        try:
            yield
        finally:
            sys.stderr = usual
