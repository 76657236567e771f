"""Tests of running what a model wrote: what passes, what does not, and what is left behind."""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest

from strop.errors import StropError, StropFailure
from strop.evaluation import sandbox
from strop.evaluation.sandbox import Limits, Outcome, isolation, pass_at_k, run_many

SHORT = Limits(seconds=0.5)
SMALL = Limits(memory=64 << 20, output=1000)
NOWHERE = 1  #: what the kernel does not take for namespaces

ENDS = [
    ("def one():\n    return 1\n\nassert one() == 1", "passed"),
    ("", "passed"),
    ("assert __name__ == '__main__'", "passed"),
    ("import pickle\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A", "passed"),
    ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()", "passed"),
    ("assert 1 + 1 == 3", "wrong"),
    ("import os\nif os.fork():\n    os.wait()\n    assert False", "wrong"),
    ("undefined", "error: NameError"),
    ("def f(:", "error: SyntaxError"),
    ("'\ud800'", "error: UnicodeEncodeError"),
    ("def f():\n    f()\nf()", "error: RecursionError"),
    ("raise type('a\\nb', (Exception,), {})", "error: a"),
    ("input()", "error: EOFError"),
    ("import numpy", "error: ModuleNotFoundError"),
    ("import sys\nsys.exit(0)\nassert False", "exit"),
    ("import os\nos._exit(0)\nassert False", "exit"),
    ("import os\nos.closerange(0, 100)", "exit"),
    ("import os\nos.kill(os.getpid(), 9)", "killed"),
    ("import os\nos.killpg(0, 15)", "killed"),
    ("import ctypes\nctypes.string_at(0)", "killed"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGXCPU)", "timeout"),
]


def run_code(program: str, limits: Limits) -> Outcome:
    """Run one program."""
    [(_, outcome)] = run_many([program], limits, 1)
    return outcome


@pytest.fixture(params=["isolated", "refused"])
def namespaces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Say whether the kernel allows namespaces, and let it once refuse them."""
    if request.param == "refused":
        monkeypatch.setattr(sandbox, "NAMESPACES", NOWHERE)
    elif "no network" not in isolation():
        pytest.skip("this machine does not allow namespaces")
    return bool(request.param == "isolated")


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Yield the path of a FIFO, and its end for reading."""
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reading
    os.close(reading)


def until_closed(reading: int) -> bytes:
    """Return what was written to a FIFO, when no process holds it any more."""
    events = select.poll()
    events.register(reading, select.POLLIN)
    written = b""
    while events.poll(10_000):
        if not (more := os.read(reading, 1000)):
            return written
        written += more
    pytest.fail("a process outlived the program")


def with_children(path: str, first: str) -> str:
    """Return a program that ends when each of its 8 children has written its number and sleeps."""
    return f"""
import os, time
reading, writing = os.pipe()
for _ in range(8):
    if os.fork() == 0:
        {first}
        os.write(os.open({path!r}, os.O_WRONLY), b"%d\\n" % os.getpid())
        os.write(writing, b".")
        time.sleep(60)
        os._exit(0)
for _ in range(8):
    os.read(reading, 1)
"""


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(("program", "reason"), ENDS)
def test_a_program_ends(program: str, reason: str) -> None:
    assert run_code(program, Limits()) == Outcome(reason == "passed", reason)


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import time\ntime.sleep(60)", "while True: print('a' * 10_000)"],
)
def test_a_program_that_does_not_end_is_stopped(program: str) -> None:
    assert run_code(program, SHORT) == Outcome(False, "timeout")


@pytest.mark.parametrize(
    "program",
    [
        "bytes(10**9)",
        "kept = []\nwhile True: kept.append([0])",
        "kept = ()\nwhile True: kept = kept,",
    ],
)
def test_memory_is_limited(program: str) -> None:
    assert run_code(program, SMALL) == Outcome(False, "memory")


def test_files_are_limited() -> None:
    write = "with open('file', 'w') as file:\n    file.write('a' * {})"
    assert run_code(write.format(1000), SMALL).passed
    assert run_code(write.format(1001), SMALL) == Outcome(False, "error: OSError")


def test_limits_are_those_that_were_asked_for() -> None:
    program = """
from resource import *
assert getrlimit(RLIMIT_CPU) == (3, 4)
assert getrlimit(RLIMIT_AS) == (1 << 28, 1 << 28)
assert getrlimit(RLIMIT_CORE) == (0, 0)
assert getrlimit(RLIMIT_NOFILE)[1] <= 256
"""
    assert run_code(program, Limits(seconds=2.5, memory=1 << 28)).reason == "passed"


@pytest.mark.usefixtures("namespaces")
def test_output_does_not_look_like_success() -> None:
    program = """
import contextlib, os
for channel in range(100):
    with contextlib.suppress(OSError):
        os.write(channel, b"passed\\n" * 3)
assert False
"""
    assert not run_code(program, Limits()).passed


def test_a_program_that_replaces_functions_of_the_system_can_pass() -> None:
    program = "import os\nfor name in ('fork', 'getpid', 'write', '_exit'): setattr(os, name, None)"
    assert run_code(program, Limits()).passed


def test_a_program_sees_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_API_KEY", "secret")
    program = """
import os, sys
assert not set(os.environ) - {"PATH", "PYTHONHASHSEED", "TMPDIR", "LC_CTYPE"}, "environment"
assert b"secret" not in open("/proc/self/environ", "rb").read()
assert not os.listdir()
assert len(sys.argv) == 1
assert not sys.flags.hash_randomization
"""
    assert run_code(program, Limits()).reason == "passed"


def test_the_directory_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = f"""
import os, tempfile
assert os.path.dirname(os.getcwd()) == {str(tmp_path)!r}
tempfile.mkstemp()
os.makedirs("a/b")
os.chmod("a", 0)
"""
    assert run_code(program, Limits()).reason == "passed"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("namespaces")
def test_children_are_killed(fifo: tuple[str, int]) -> None:
    path, reading = fifo
    assert run_code(with_children(path, "pass"), Limits()).passed
    assert len(until_closed(reading).split()) == 8


def test_children_that_leave_are_killed_with_their_namespace(
    fifo: tuple[str, int], namespaces: bool
) -> None:
    path, reading = fifo
    assert run_code(with_children(path, "os.setsid()"), Limits()).passed
    if namespaces:
        assert len(until_closed(reading).split()) == 8
        return
    children = os.read(reading, 1000).split()
    with pytest.raises(BlockingIOError):  # the control: they live, and that can be told
        os.read(reading, 1)
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    assert until_closed(reading) == b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_programs_are_killed_when_we_are(number: int, fifo: tuple[str, int]) -> None:
    path, reading = fifo
    program = f"""
import os, time
os.write(os.open({path!r}, os.O_WRONLY), b".")
time.sleep(60)
"""
    ours = f"""
import signal
from strop.evaluation.sandbox import Limits, run_many
signal.signal(signal.SIGINT, signal.default_int_handler)
list(run_many([{program!r}] * 2, Limits(seconds=60), 2))
"""
    directory = str(Path(path).parent)  # where those of a killed process stay
    process = subprocess.Popen(
        [sys.executable, "-c", ours],
        env={**os.environ, "TMPDIR": directory},
        stderr=subprocess.DEVNULL,
    )
    for _ in range(2):
        assert select.select([reading], [], [], 30)[0]
        assert os.read(reading, 1) == b"."
    process.send_signal(number)
    assert process.wait(30) == -number
    assert until_closed(reading) == b""


def test_there_is_no_network(namespaces: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket\nsocket.create_connection({server.getsockname()!r})"
        assert run_code(program, Limits()).passed is not namespaces


def test_isolation_is_known(namespaces: bool) -> None:
    found = isolation()
    assert "memory" in found
    assert ("no network" in found) is namespaces
    assert ("at most 512 processes" in found) is (namespaces and os.getuid() != 0)


def test_many_programs_run_and_few_at_once() -> None:
    taken = []

    def programs() -> Iterator[str]:
        for number in range(12):
            taken.append(number)
            yield f"assert {number} % 3"

    results = run_many(programs(), Limits(), 3)
    first = next(results)
    assert len(taken) == 3
    found = dict([first, *results])
    right, wrong = Outcome(True, "passed"), Outcome(False, "wrong")
    assert found == {number: right if number % 3 else wrong for number in range(12)}


def test_what_cannot_be_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StropError, match="time above zero, not 0"):
        Limits(seconds=0)
    with pytest.raises(StropError, match="finite time"):
        Limits(seconds=math.inf)
    with pytest.raises(StropError, match="needs memory"):
        Limits(memory=0)
    with pytest.raises(StropError, match="at least one program"):
        next(run_many(["pass"], Limits(), 0))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StropFailure, match="/bin/false failed before it began"):
        run_code("pass", Limits())


def test_pass_at_k_is_the_share_of_subsets() -> None:
    for n in range(1, 8):
        for correct in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([True] * correct + [False] * (n - correct), k))
                wanted = Fraction(sum(map(any, subsets)), len(subsets))
                assert pass_at_k(n, correct, k) == float(wanted)


@pytest.mark.parametrize(
    ("n", "correct", "k"), [(0, 0, 1), (5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 6)]
)
def test_counts_that_cannot_be_are_refused(n: int, correct: int, k: int) -> None:
    with pytest.raises(StropError, match=f"not {correct} of {n}"):
        pass_at_k(n, correct, k)


def test_directories_of_any_depth_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    deep = "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n"
    assert run_code(deep, Limits()).passed
    assert list(tmp_path.iterdir()) == []
