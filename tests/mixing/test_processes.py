"""Searches over several processes: killed at any moment, they end with the same mixture."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.mixing.test_mix import domains_file

from strop.data import read_json

START = "from strop.cli import main; main()"


def command(folder: Path, output: str) -> subprocess.Popen[bytes]:
    """Start a search with DoReMi, in a session of its own."""
    settings = "--method doremi --model 0.2M --context 32 --batch 4 --tokens 6000 --seeds 2"
    settings += f" --processes 2 -o {output}"
    return subprocess.Popen(
        [sys.executable, "-c", START, "mix", "domains.yaml", *settings.split()],
        cwd=folder,
        env={**os.environ, "STROP_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def alive(group: int) -> bool:
    """Tell whether a process of a session is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the mixture of a search that nothing came in between of."""
    folder = tmp_path_factory.mktemp("whole")
    domains_file(folder)
    run = command(folder, "out")
    _, told = run.communicate(timeout=300)
    assert run.returncode == 0, told.decode()
    return read_json(folder / "out" / "mixture.json")


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_search_that_is_ended_ends_all_processes_and_goes_on(
    tmp_path: Path, whole: Any, ended_by: signal.Signals
) -> None:
    domains_file(tmp_path)
    parts = command(tmp_path, "parts")
    runs = tmp_path / "parts.work" / "runs"
    limit = time.monotonic() + 200
    while len(list(runs.glob("*/result.json"))) < 3 and time.monotonic() < limit:
        time.sleep(0.05)
    parts.send_signal(ended_by)
    parts.communicate(timeout=60)
    assert parts.returncode != 0
    limit = time.monotonic() + 30
    while alive(parts.pid) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not alive(parts.pid)
    assert not (tmp_path / "parts").exists()
    again = command(tmp_path, "parts")
    _, told = again.communicate(timeout=300)
    assert again.returncode == 0, told.decode()
    assert read_json(tmp_path / "parts" / "mixture.json") == whole
