"""Files of rows for the tests of tuning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


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
