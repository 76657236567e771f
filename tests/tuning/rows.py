"""Files of rows and settings for the tests of tuning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strop.training.network import NetworkConfig
from strop.training.schedule import TrainingConfig
from strop.tuning.fit import TuneConfig


def preferences(
    path: Path, count: int, answers: Callable[[int], tuple[str, str]], name: str = "q"
) -> Path:
    """Write preferences: `answers` gives the better and the worse one."""
    lines = []
    for number in range(count):
        chosen, rejected = answers(number)
        row = {"prompt": f"{name}{number}", "chosen": chosen, "rejected": rejected}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def examples(path: Path, count: int = 30) -> Path:
    """Write prompts that are all answered with plus signs."""
    rows = [{"prompt": f"q{number}", "completion": "++++"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(rate: float = 1e-2, epochs: float = 2, **network: Any) -> TuneConfig:
    """Return settings of a short run, of which two fifths are held out."""
    training = TrainingConfig(learning_rate=rate, epochs=epochs, batch=8)
    # Which type is faster for matrices as small as these changes from moment to moment.
    network = {"dtype": "float32"} | network
    return TuneConfig(NetworkConfig(**network), training, held_out=0.4)
