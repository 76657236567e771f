"""Engines in processes of their own, and rounds of measures that survive being killed.

Everything that is compared runs in one process tree and takes turns; who waits sleeps. A round in
which other processes of the machine took part of it is run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_models import PEERS
from strop.console import say
from strop.data import read_json, write_json

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))
THREADS = 2  # of every engine, but where a measure says otherwise
SETTLE = 0.02  # seconds before a measure, in which the threads of the one before go to sleep
QUIET = 0.03  # of the processors' time that others may take during a round
ATTEMPTS = 4  # at a quiet round; then the quietest counts

Row = dict[str, Any]
children: set[int] = set()  # processes of ours that are alive


@dataclass(frozen=True)
class Setup:
    """What a worker runs."""

    engine: str  #: strop, transformers or llama.cpp
    path: Path
    threads: int
    options: dict[str, Any] = field(default_factory=dict)


class Worker:
    """A process with one engine; it sleeps until it is asked."""

    def __init__(self, setup: Setup, script: str) -> None:
        self.setup = setup
        python = str(PEERS) if setup.engine.startswith("llama") else sys.executable
        arguments = json.dumps(vars(setup) | {"path": str(setup.path)})
        threads = {"OMP_NUM_THREADS": str(setup.threads)}
        self.process = subprocess.Popen(
            [python, str(HERE / script), arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | threads,
        )
        children.add(self.process.pid)

    def ask(self, measure: str, **arguments: Any) -> Any:
        """Return what a function of the script measures."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        time.sleep(SETTLE)
        self.process.stdin.write(json.dumps({"measure": measure} | arguments) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"no answer to {measure} from {self.setup}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        children.discard(self.process.pid)


@contextmanager
def workers(
    setups: dict[str, Setup], script: str = "engine_worker.py"
) -> Iterator[dict[str, Worker]]:
    """Start a worker for each setup; equal setups share one."""
    started: list[Worker] = []
    named: dict[str, Worker] = {}
    try:
        for name, setup in setups.items():
            shared = next((worker for worker in started if worker.setup == setup), None)
            if shared is None:
                started.append(shared := Worker(setup, script))
            named[name] = shared
        yield named
    finally:
        for worker in started:
            worker.close()


@contextmanager
def spinning(core: int) -> Iterator[None]:
    """Keep one core busy with another process."""
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nprint(flush=True)\nwhile True: pass"
    spinner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    children.add(spinner.pid)
    try:
        assert spinner.stdout is not None
        spinner.stdout.readline()
        yield
    finally:
        spinner.kill()
        spinner.communicate()
        children.discard(spinner.pid)


def rounds(path: Path, count: int, measure: Callable[[int], Row]) -> list[Row]:
    """Return `count` rounds of measures; those that `path` holds already are not run again.

    `measure` is given the number of the round. A row says in "others" which part of the processors'
    time went to other processes.
    """
    rows: list[Row] = read_json(path) if path.exists() else []
    while len(rows) < count:
        best: Row | None = None
        for _ in range(ATTEMPTS):
            start, before = time.monotonic(), foreign_seconds()
            row = measure(len(rows))
            share = (foreign_seconds() - before) / (time.monotonic() - start) / len(CORES)
            row["others"] = round(share, 4)
            if best is None or share < best["others"]:
                best = row
            if share <= QUIET:
                break
        assert best is not None
        rows.append(best)
        write_json(path, rows)
        say(f"{path.stem}: round {len(rows)} of {count}, others took {100 * best['others']:.0f}%")
    return rows


def foreign_seconds() -> float:
    """Return the processor time that went to processes that are not ours, since the start."""
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text(encoding="ascii").split()[1:9]
    )
    everything = user + nice + system + irq + softirq + steal
    return (everything - sum(own_ticks(pid) for pid in (os.getpid(), *children))) / ticks


def own_ticks(pid: int) -> int:
    """Return the processor time of a process and of those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))
