"""What this process may use of the machine: cores and memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strop.errors import StropError, StropFailure

MOST_THREADS = 256
CGROUPS = Path("/sys/fs/cgroup")
TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def thread_count() -> int:
    """Return `$STROP_THREADS`, else the number of physical cores that this process may run on.

    Two threads on one core share its multipliers, so more threads than cores gain nothing.
    """
    chosen = os.environ.get("STROP_THREADS", "").strip()
    if not chosen:
        return physical_cores()
    if not re.fullmatch(r"[1-9][0-9]{0,2}", chosen) or int(chosen) > MOST_THREADS:
        raise StropError(
            f"STROP_THREADS={chosen:.40}: must be a whole number from 1 to {MOST_THREADS}"
        )
    return int(chosen)


def physical_cores() -> int:
    """Return the number of physical cores among the processors that this process may run on."""
    return len({siblings(processor) for processor in os.sched_getaffinity(0)})


def siblings(processor: int) -> str:
    """Name the core of a processor by all its processors, such as "0,4"."""
    path = Path(TOPOLOGY.format(processor))
    return path.read_text(encoding="ascii").strip() if path.exists() else str(processor)


def available_memory() -> int:
    """Return the bytes of memory that are free, or can be freed by dropping cached files.

    Both of the machine and of the control groups (version 2) that this process is in.
    """
    path = Path("/proc/meminfo")
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            machine = int(line.split()[1]) * 1024
            return min([machine, *map(group_memory, control_groups())])
    raise StropError(f"{path}: no MemAvailable: Linux 3.14 or later is needed")


@contextmanager
def enough_memory(message: str) -> Iterator[None]:
    """Raise StropFailure with this message if what is done inside finds no memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # PyTorch has no type of its own for it.
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise StropFailure(message) from error
        raise


def control_groups() -> list[Path]:
    """Return the control groups, from the root down, that limit the memory of this process."""
    path = Path("/proc/self/cgroup")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    groups = [CGROUPS / name for name in names]
    every = [part for group in groups for part in (*reversed(group.parents), group)]
    limits = [part / "memory.max" for part in every if part.is_relative_to(CGROUPS)]
    return [file.parent for file in limits if file.exists() and file.read_text().strip() != "max"]


def group_memory(group: Path) -> int:
    """Return the bytes of memory that a limited control group has left, cached files dropped."""
    limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return max(0, limit - used + int(statistics["inactive_file"]))
