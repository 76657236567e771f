"""The machine and the software that a result was measured with."""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from strop.blockfp.tensor import threads

#: Packages whose version can change a result.
PACKAGES = ("strop", "numpy", "torch", "transformers", "tokenizers", "safetensors", "gguf")

#: Instruction sets that kernels care about, as Linux spells them, x86 and ARM.
INSTRUCTION_SETS = (
    "avx2",
    "f16c",
    "fma",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


def environment() -> dict[str, Any]:
    """Return the machine and the versions as JSON values; nothing in it changes while it runs."""
    model, flags = processor(read_lines(Path("/proc/cpuinfo")))
    return {
        "processor": model or platform.processor() or platform.machine(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": system(),
        "python": platform.python_version(),
        "versions": versions(),
    }


def processor(lines: list[str]) -> tuple[str, set[str]]:
    """Return the model name and the flags of the first processor in /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    flags = found.get("flags", found.get("features", ""))
    return found.get("model name", ""), set(flags.split())


def system() -> str:
    """Return the operating system with its version."""
    if hasattr(platform, "freedesktop_os_release") and Path("/etc/os-release").exists():
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.machine()}"
    return f"{platform.system()} {platform.release()}, {platform.machine()}"


def versions() -> dict[str, str]:
    """Return the versions of the installed packages among `PACKAGES`."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    return found


def reset_peak_memory() -> None:
    """Start a new measurement of peak memory, where the system allows it."""
    clear = Path("/proc/self/clear_refs")
    if os.access(clear, os.W_OK):
        clear.write_text("5")  # see proc(5): resets VmHWM


def peak_memory() -> int:
    """Return the largest resident size in bytes since the last reset."""
    for line in read_lines(Path("/proc/self/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # where /proc is not mounted


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file of the system, none where the system does not have it."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
