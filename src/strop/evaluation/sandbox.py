"""Running Python that a model wrote, together with its tests, in a process of its own.

It is a guard against accidents, not against a determined attacker. A program is held to limits, has
no network where the kernel allows that, does not see our environment, and passes only if its last
line was reached: a random token, new for each run, is then written to a pipe, so that neither
`sys.exit(0)` nor output that looks like success counts. But the token lies in the memory of the
program's own process, where one that looks for it can find it, and the program can read, write and
delete whatever the user can. What you would not run yourself belongs in a container.
"""

from __future__ import annotations

import math
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from tempfile import TemporaryFile, mkdtemp

from strop.errors import StropError, StropFailure

# CLONE_NEWUSER, which makes the others possible without privileges, CLONE_NEWPID and CLONE_NEWNET.
NAMESPACES = 0x10000000 | 0x20000000 | 0x40000000
PROCESSES = 512  #: most that one program may have
FILES = 256  #: most that one process may have open
REPORT = 4096  #: most bytes of a report; so few are written to a pipe at once or not at all

# What the new process runs. Functions come by name because a program may replace those of `os`.
CHILD = '''
import ctypes, resource, signal, sys
from os import _exit, fork, getpid, getuid, waitpid, waitstatus_to_exitcode, write

source, channel, namespaces, seconds, memory, output, processes, files = map(int, sys.argv[1:])
del sys.argv[1:]
with open(source, "rb") as file:
    token, _, program = file.read().decode("utf-8", "surrogatepass").partition("\\n")
libc = ctypes.CDLL(None)
enforced = "limits of time, memory and file size"


def report(reason):
    """Say how the program ended; only the first report counts."""
    write(channel, f"{token}\\n{enforced}\\n{reason[:100]}\\n".encode("utf-8", "replace"))


def die_with_parent():
    """Have this process killed when its parent ends, however that ends."""
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def go_on_in_child():
    """Leave this process to wait, and to report an end that its child cannot report."""
    if child := fork():
        code = waitstatus_to_exitcode(waitpid(child, 0)[1])
        report("timeout" if code == -signal.SIGXCPU else "killed" if code < 0 else "exit")
        _exit(0)
    die_with_parent()


def limit(kind, soft, hard):
    """Set a limit, or keep a lower one that is there."""
    most = resource.getrlimit(kind)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


root = getuid() == 0  # whose processes are not limited
isolated = libc.unshare(namespaces) == 0
die_with_parent()
if isolated:
    enforced += "; no network; no process outlives the program"
    if not root:
        enforced += f"; at most {processes} processes"
    go_on_in_child()  # the first process of a namespace, whose end is that of all others in it
    # Without a namespace the limit would count all processes of the user.
    limit(resource.RLIMIT_NPROC, processes, processes)
go_on_in_child()
limit(resource.RLIMIT_CPU, seconds, seconds + 1)  # a signal that says why, then SIGKILL
limit(resource.RLIMIT_FSIZE, output, output)
limit(resource.RLIMIT_NOFILE, files, files)
limit(resource.RLIMIT_CORE, 0, 0)
limit(resource.RLIMIT_AS, memory, memory)

main = sys.modules["__main__"] = type(sys)("__main__")
pid = getpid()
try:
    exec(compile(program, "program.py", "exec"), main.__dict__)
    reason = "passed"
except AssertionError:
    reason = "wrong"
except MemoryError:
    reason = "memory"
except SystemExit:
    reason = "exit"
except BaseException as error:
    reason = f"error: {type(error).__name__}"
if getpid() == pid:  # not a child of the program's that came here too
    report(reason)
_exit(0)
'''


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 10.0  #: of wall-clock time, and of processor time of each process
    memory: int = 512 << 20  #: bytes of address space of each process
    output: int = 1 << 20  #: bytes of each file that it writes; what it prints is not kept

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if not 0 < self.seconds < math.inf:
            raise StropError(f"a program needs a finite time above zero, not {self.seconds} s")
        if self.memory < 1 or self.output < 0:
            raise StropError(
                f"a program needs memory, and output of at least 0 bytes: not {self.memory} "
                f"and {self.output}"
            )


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    passed: bool  #: whether its last line was reached
    #: "passed", "wrong", "exit", "timeout", "memory", "killed", or "error: " and its type
    reason: str


def run_many(
    programs: Iterable[str], limits: Limits, processes: int
) -> Iterator[tuple[int, Outcome]]:
    """Run programs, of which the tests are a part, each until it ends or meets a limit.

    Yields the number of each with how it ended, as it is done and in any order; as many as
    `processes` run at once, while the next is waited for. Each runs without site-packages in an
    empty directory that is then deleted, with its output thrown away. All of its processes are
    killed in the end, or when the caller stops or is interrupted; without namespaces (see
    `isolation`) those that left its process group are not. Raises StropError for fewer than one at
    once, and StropFailure where no program can be run.
    """
    if processes < 1:
        raise StropError(f"at least one program runs at once, not {processes}")
    waiting = enumerate(programs)
    running: dict[Future[tuple[str, str]], int] = {}
    stop, held = os.pipe()
    pool = ThreadPoolExecutor(processes)
    try:
        while True:
            for number, program in islice(waiting, processes - len(running)):
                running[pool.submit(attempt, program, limits, stop)] = number
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), outcome(future.result()[1])
    finally:
        os.close(held)  # hangs up on what still runs
        pool.shutdown()
        os.close(stop)


def isolation() -> str:
    """Return in a few words what is enforced on this machine, as an empty program finds it.

    Raises StropFailure where no program can be run.
    """
    enforced, reason = attempt("", Limits())
    if reason != "passed":
        raise StropFailure(f"no program can be run: an empty one ended with {reason}")
    return enforced


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the share of draws of k out of n samples that hold a correct one.

    It estimates without bias how likely one of k samples is right. (Chen et al. 2021, arXiv
    2107.03374, equation 1.) Raises StropError for counts that cannot be.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise StropError(f"pass@{k} needs {k} samples, from 0 to all correct: not {correct} of {n}")
    return float(1 - Fraction(math.comb(n - correct, k), math.comb(n, k)))


def attempt(program: str, limits: Limits, stop: int | None = None) -> tuple[str, str]:
    """Return what was enforced on a program, and how it ended.

    It is killed when the other end of the pipe `stop` is closed.
    """
    token = secrets.token_hex(16)
    with (
        empty_directory() as directory,
        TemporaryFile() as source,
    ):
        source.write(f"{token}\n{program}".encode("utf-8", "surrogatepass"))
        source.seek(0)
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as reports:
            with os.fdopen(writing, "wb", buffering=0):
                process = start(source.fileno(), writing, directory, limits)
            try:
                events = select.poll()
                for channel in (reading, stop):
                    if channel is not None:
                        events.register(channel, select.POLLIN)
                ready = [channel for channel, _ in events.poll(1000 * limits.seconds)]
                report = reports.read(REPORT) if reading in ready else b""
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = report.decode(errors="replace").split("\n")
    if found[0] == token:
        return found[1], found[2]
    if not ready:
        return "", "timeout"
    if process.returncode > 0:
        raise StropFailure(f"no program can be run: {sys.executable} failed before it began")
    return "", "killed"


@contextmanager
def empty_directory() -> Iterator[str]:
    """Yield an empty directory, and delete what is in it then, however deep it is."""
    directory = mkdtemp(prefix="strop-")
    try:
        yield directory
    finally:  # Python's own rmtree fails in a thousand directories in each other
        subprocess.run(["rm", "-rf", "--", directory], check=False, stderr=subprocess.DEVNULL)


def start(source: int, channel: int, directory: str, limits: Limits) -> subprocess.Popen[bytes]:
    """Start the process that runs the program in `source` and reports through `channel`."""
    numbers = (
        source,
        channel,
        NAMESPACES,
        math.ceil(limits.seconds),
        limits.memory,
        limits.output,
        PROCESSES,
        FILES,
    )
    return subprocess.Popen(
        # As -I, but for PYTHONHASHSEED, which it ignores: sets keep their order from run to run.
        [sys.executable, "-s", "-S", "-P", "-c", CHILD, *map(str, numbers)],
        cwd=directory,
        env={"PATH": os.defpath, "PYTHONHASHSEED": "0", "TMPDIR": directory},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(source, channel),
        start_new_session=True,
    )


def outcome(reason: str) -> Outcome:
    """Return the outcome of a program that ended for a reason."""
    return Outcome(reason == "passed", reason)
