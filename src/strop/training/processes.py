"""The processes that train together, by accelerate: one, if it was not started by a launcher."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from strop.errors import StropError, failed_import

try:
    from accelerate import Accelerator, PartialState
except ImportError as error:
    raise failed_import(error, ["accelerate"], "tune") from error


@cache
def processes() -> PartialState:
    """Return this process's place among all; at the end of the program their connection closes.

    Left open, it has threads that the end of the interpreter takes for a crash (SIGABRT).
    """
    # Where there is nothing but processors accelerate has to be told, or each would be alone.
    state = PartialState(cpu=not torch.accelerator.is_available())
    atexit.register(state.destroy_process_group)
    return state


def own_device() -> torch.device:
    """Return where this process computes; PyTorch loads nothing onto a numbered processor."""
    device: torch.device = processes().device
    return torch.device("cpu") if device.type == "cpu" else device


def open_accelerator(trackers: Sequence[str], logs: Path) -> Accelerator:
    """Open accelerate. Raises StropError for ways to distribute that the loop does not know."""
    processes()  # before accelerate connects them itself
    accelerator = Accelerator(log_with=list(trackers) or None, project_dir=str(logs))
    kind, mixed = accelerator.distributed_type.name, accelerator.mixed_precision
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise StropError(f"accelerate is set up for {kind}: only plain processes can be used")
    if mixed != "no":
        raise StropError(f"accelerate is set up for {mixed}: use --mixed_precision no, and --dtype")
    return accelerator
