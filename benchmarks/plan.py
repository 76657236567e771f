"""Memory that `strop plan` predicts beside what a process takes.

Each setting runs for three steps, or for eight tokens after a prompt, in a process of its own with
one thread; what counts is the most that was resident (VmHWM). What the allocator loses was fitted
to the first settings for tuning, and to none of the others. Writes benchmarks/results/plan.json.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from strop.data import write_json
from strop.models import pack, resolve
from strop.models.environment import environment
from strop.models.memory import Peak, native_peak, read_facts, torch_peak
from strop.models.trial import in_fresh_process
from strop.training.fitting import Setting
from strop.training.memory import Lengths, tuning_peak

RESULT = Path(__file__).parent / "results" / "plan.json"
MODEL = "smollm2"
WITHIN = 0.1  # of what is measured
PAIR, LONG_ANSWERS = Lengths(350, 40, 2, 1), Lengths(150, 250, 2, 1)
LONG = Lengths(900, 100, 1, 2)

FITTED = [
    (Setting(), PAIR),
    (Setting(), LONG_ANSWERS),
    (Setting(), Lengths(350, 40, 2, 3)),
    (Setting(), Lengths(50, 50, 8, 1)),
    (Setting(), LONG),
    (Setting(rank=64), PAIR),
    (Setting(checkpointing=True), PAIR),
    (Setting(checkpointing=True), LONG_ANSWERS),
    (Setting(checkpointing=True), LONG),
    (Setting(base="bfp8"), PAIR),
    (Setting(base="bfp8", checkpointing=True), PAIR),
    (Setting(base="bfp8", checkpointing=True), LONG_ANSWERS),
    (Setting(base="bfp4g32"), LONG_ANSWERS),
    (Setting(dtype="bfloat16"), Lengths(80, 20, 1, 1)),
    (Setting(rank=0), PAIR),
    (Setting(rank=0, checkpointing=True), PAIR),
]
OTHERS = [
    (Setting(), Lengths(250, 80, 2, 1)),
    (Setting(rank=16), Lengths(200, 100, 1, 4)),
    (Setting(checkpointing=True), Lengths(100, 150, 4, 1)),
    (Setting(base="bfp8", checkpointing=True), Lengths(200, 100, 2, 1)),
    (Setting(base="bfp4g32"), Lengths(500, 100, 1, 1)),
    (Setting(rank=0), Lengths(100, 200, 1, 1)),
    (Setting(dtype="bfloat16"), Lengths(350, 50, 2, 2)),
    (Setting(dtype="bfloat16"), LONG_ANSWERS),
]
#: format, keys and values, tokens
GENERATING = [
    ("bfp8", "fp16", 2048),
    ("bfp8", "fp16", 8192),
    ("bfp8", "bfp8", 8192),
    ("bfp4g32", "fp16", 4096),
    (None, None, 2048),
]


def tuned(setting: Setting, lengths: Lengths, model: str) -> tuple[str, str, Peak, float]:
    peak = tuning_peak(read_facts(resolve(model)), setting, lengths)
    values = {key: value for key, value in vars(setting).items() if key != "base"}
    found = in_fresh_process("strop.training.trial", {"model": model, **values, **vars(lengths)})
    groups = f"{lengths.groups} x " if lengths.groups > 1 else ""
    tokens = f"{groups}({lengths.prompt} + {lengths.completions} x {lengths.completion})"
    return f"tune: {setting.name}", tokens, peak, found["peak_bytes"]


def generated(kv: str | None, context: int, model: str) -> tuple[str, str, Peak, float]:
    facts = read_facts(resolve(model))
    peak = native_peak(facts, context, kv) if kv else torch_peak(facts, context)
    backend = "native" if kv else "torch"
    settings = {"model": model, "backend": backend, "kv": kv, "context": context}
    found = in_fresh_process("strop.models.trial", settings)
    name = f"{Path(model).name}, keys and values {kv}" if kv else "float32, on PyTorch"
    return f"generate: {name}", str(context), peak, found["peak_bytes"]


def row(name: str, tokens: str, peak: Peak, measured: float, fitted: str | None) -> dict[str, Any]:
    found = {
        "setting": name,
        "tokens": tokens,
        "predicted GB": round(peak.total / 1e9, 3),
        "measured GB": round(measured / 1e9, 3),
        "predicted / measured": round(peak.total / measured, 3),
        "at its peak": peak.moment,
        "slack fitted to it": fitted,
    }
    print(found, flush=True)
    return found


def main() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "STROP_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        models: dict[str | None, str] = {None: MODEL}
        for format in ("bfp8", "bfp4g32"):
            models[format] = str(Path(folder) / format)
            pack(MODEL, format, Path(models[format]), {})
        rows = [
            row(*tuned(setting, lengths, models[setting.base]), fitted)
            for settings, fitted in ((FITTED, "yes"), (OTHERS, "no"))
            for setting, lengths in settings
        ]
        rows += [
            row(*generated(kv, context, models[base]), None) for base, kv, context in GENERATING
        ]
    result = {
        "name": "plan",
        "title": "most memory of a process, predicted and measured",
        "model": "SmolLM2-135M-Instruct",
        "machine": {"processor": environment()["processor"], "threads": "1 thread"},
        "rows": rows,
    }
    write_json(RESULT, result)
    quotients = [one["predicted / measured"] for one in rows]
    others = [one["predicted / measured"] for one in rows if one["slack fitted to it"] == "no"]
    summary = {
        "settings": len(rows),
        "lowest": min(quotients),
        "highest": max(quotients),
        "lowest_not_fitted": min(others),
        "highest_not_fitted": max(others),
        "within": all(abs(one - 1) <= WITHIN for one in quotients),
    }
    print("RESULT " + json.dumps(summary))


if __name__ == "__main__":
    main()
