"""From the rounds of benchmarks/engine.py to its tables and its RESULT line.

Every ratio is taken within a round, where both sides met the same machine, and is the median over
rounds; intervals are bootstraps over rounds, those of perplexities over chunks of text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import engine_models as models
from engine_models import File
from engine_process import QUIET, THREADS, Row
from strop import _native
from strop.data import write_json
from strop.evaluation.check import perplexity
from strop.models import resolve
from strop.models.checkpoint import open_checkpoint
from strop.models.environment import environment
from strop.stats import Interval, bootstrap, paired_difference
from tables import table

RESULTS = Path(__file__).parent / "results"
SOURCE = "transformers float32"
TORCH_BITS = {"float32": 32.0, "bfloat16": 16.0}
#: key of RESULT -> what it says, and what must hold
CLAIMS = {
    "ppl4_ratio": ("perplexity of the small pack, in times of llama.cpp's Q4_0", "at most 1.00"),
    "ppl8_ratio": ("perplexity at 8 bits, in times of the source's", "at most 1.005"),
    "decode4_vs_llamacpp": (
        "decoding, small pack against Q4_0 or Q4_1",
        "at least 2.0",
    ),
    "decode8_vs_llamacpp": ("decoding at 8 bits against Q8_0", "at least 1.4"),
    "prefill_vs_llamacpp": ("prefill of 512 tokens against llama.cpp's fastest", "at least 3.0"),
    "v4": ("4 tokens in one pass, in times of one", "at most 1.6"),
    "v8": ("8 tokens in one pass, in times of one", "at most 2.4"),
    "bandwidth_fraction": ("least share of the read bandwidth from 0.5B up", "at least 0.7"),
    "contended": ("speed beside a busy core, in times of one thread's alone", "at least 0.7"),
    "dot_peak_fraction": ("share of the peak of dot products in prefill of 512 tokens", ""),
}
FOUR_BIT = ("llama.cpp Q4_0", "llama.cpp Q4_1")
Losses = dict[str, list[float]]  # of each chunk of text, by engine
Larger = dict[str, tuple[dict[str, File], list[Row]]]  # files and rounds, by size


def median(rows: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.median(rows, axis=1)
    return result


def over(rows: Sequence[Row], value: Callable[[Row], float]) -> Interval:
    """Return the median over rounds of what `value` takes from each."""
    return bootstrap([value(row) for row in rows], median)


def ratio(losses: Losses, ours: str, theirs: str) -> Interval:
    """Return the perplexity of one engine divided by that of another, paired by chunk."""
    change = paired_difference(losses[ours], losses[theirs], perplexity, relative=True)
    low, high = change.low + 1, change.high + 1
    return Interval(change.estimate + 1, low, high, change.n, change.level)


def cost(row: Row, name: str, size: int) -> float:
    """Return v(size): the time of a pass over `size` tokens in passes over one."""
    times = row["verify"][name]
    return times[size - 1] / times[0]


def fastest(rows: Sequence[Row], measure: str, names: Sequence[str]) -> str:
    """Return which of several engines has the least median time."""
    return min(names, key=lambda name: over(rows, lambda row: row[measure][name]).estimate)


def times_faster(rows: Sequence[Row], measure: str, ours: str, theirs: Sequence[str]) -> Interval:
    """Return how many times as fast as the fastest of `theirs` an engine is."""
    best = fastest(rows, measure, theirs)
    return over(rows, lambda row: row[measure][best] / row[measure][ours])


def of_bandwidth(rows: Sequence[Row], name: str, size: int) -> Interval:
    """Return the bytes of weights per second in decoding, as a part of what can be read."""
    return over(rows, lambda row: size / row["decode"][name] / row["bandwidth"][name])


def main_table(
    files: dict[str, File], losses: Losses, speed: list[Row], cold: list[Row]
) -> list[Row]:
    """Return a row for each engine and file on SmolLM2."""
    rows = []
    for name in speed[0]["decode"]:
        weights = name.partition(" ")[2]
        bits = files[weights].bits if weights in files else TORCH_BITS[weights]
        known = name in losses
        rows.append(
            {
                "engine": label(name),
                "bits per weight": round(bits, 2),
                "perplexity": round(math.exp(np.mean(losses[name])), 2) if known else None,
                "of the source's": ratio(losses, name, SOURCE).to_json() if known else None,
                "decode tokens/s": rate(speed, "decode", name),
                "prefill tokens/s": rate(speed, "prefill 512", name),
                "first token s": over(cold, lambda r, n=name: r["first token"][n]).to_json(),
                "memory MB": round(
                    over(cold, lambda r, n=name: r["peak memory"][n] / 1e6).estimate
                ),
            }
        )
    return rows


def prefill_table(speed: list[Row]) -> list[Row]:
    """Return tokens per second of prefill by its length."""
    lengths = [measure for measure in speed[0] if measure.startswith("prefill")]
    return [
        {"engine": label(name)} | {length: rate(speed, length, name) for length in lengths}
        for name in speed[0]["decode"]
    ]


def verification_table(speed: list[Row]) -> list[Row]:
    """Return v(M) of each engine, a row for each M."""
    names = speed[0]["verify"]
    return [
        {"M": size}
        | {label(n): over(speed, lambda r, n=n, m=size: cost(r, n, m)).to_json() for n in names}
        for size in range(1, 1 + len(next(iter(names.values()))))
    ]


def growth_table(
    files: dict[str, File],
    speed: list[Row],
    larger: Larger,
) -> list[Row]:
    """Return what decoding costs as models grow, beside what the machine can read."""
    ours = {f"strop {name}": files[name] for name in ("small", "8-bit")}
    theirs = {f"llama.cpp {name}": files[name] for name in models.GGUF_TYPES}
    parts = {"135M": (ours | theirs, speed)} | larger
    rows = []
    for size, (sizes, measured) in parts.items():
        for name, file in sizes.items():
            known = name in measured[0]["bandwidth"]
            limit = of_bandwidth(measured, name, file.bytes).to_json() if known else None
            rows.append(
                {
                    "weights": size,
                    "engine": label(name),
                    "MB": round(file.bytes / 1e6),
                    "decode tokens/s": rate(measured, "decode", name),
                    "GB/s": over(
                        measured, lambda r, n=name, f=file: f.bytes / r["decode"][n] / 1e9
                    ).estimate,
                    "of the read bandwidth": limit,
                }
            )
    return rows


def of_dot_peak(files: dict[str, File], speed: list[Row], tokens: int) -> Interval:
    """Return the multiplications per second of the small pack's prefill, as a part of the peak.

    Those of the weights only, for attention depends on the length; the head works on one token.
    """
    head = math.prod(open_checkpoint(resolve(models.MODEL)).shape("model.embed_tokens.weight"))
    each = files["small"].weights - head + head / tokens
    measure = f"prefill {tokens}"
    return over(speed, lambda row: each / row[measure]["strop small"] / row["dot products"])


def rate(rows: Sequence[Row], measure: str, name: str) -> dict[str, Any]:
    """Return tokens per second."""
    return over(rows, lambda row: 1 / row[measure][name]).to_json()


def label(name: str) -> str:
    """Name an engine and what it runs for a table."""
    engine, _, weights = name.partition(" ")
    how = models.PACKS.get(weights, {"format": weights})
    kind = how["format"] if "format" in how else f"{how['bits']:g} bits"
    calibrated = ", calibrated" if "calibrate" in how or "bits" in how else ""
    return f"{engine} {kind}{calibrated}"


def measured_claims(
    files: dict[str, File],
    losses: Losses,
    speed: list[Row],
    contended: list[Row],
    larger: Larger,
) -> dict[str, Interval]:
    """Return what each of `CLAIMS` came to."""
    small, eight = "strop small", "strop 8-bit"
    theirs = [name for name in speed[0]["decode"] if name.startswith("llama.cpp")]
    bandwidth = [
        of_bandwidth(rows, name, sizes[name].bytes)
        for sizes, rows in larger.values()
        for name in rows[0]["bandwidth"]
    ]
    return {
        "ppl4_ratio": ratio(losses, small, "llama.cpp Q4_0"),
        "ppl8_ratio": ratio(losses, eight, SOURCE),
        "decode4_vs_llamacpp": times_faster(speed, "decode", small, FOUR_BIT),
        "decode8_vs_llamacpp": times_faster(speed, "decode", eight, ["llama.cpp Q8_0"]),
        "prefill_vs_llamacpp": times_faster(speed, "prefill 512", small, theirs),
        "v4": over(speed, lambda row: cost(row, small, 4)),
        "v8": over(speed, lambda row: cost(row, small, 8)),
        "bandwidth_fraction": min(bandwidth, key=lambda interval: interval.estimate),
        "contended": kept_speed(contended, small),
        "dot_peak_fraction": of_dot_peak(files, speed, 512),
    }


def kept_speed(contended: list[Row], name: str) -> Interval:
    """Return the speed beside a process that spins, in times of that of one thread alone."""
    return over(contended, lambda row: row["alone"][name] / row["contended"][name])


def contended_table(contended: list[Row]) -> list[Row]:
    """Return what is left of the speed when another process keeps one core busy."""
    return [
        {
            "engine": label(name),
            "one thread, tokens/s": rate(contended, "alone", name),
            "two threads, one core busy": rate(contended, "contended", name),
            "ratio": kept_speed(contended, name).to_json(),
        }
        for name in sorted(contended[0]["alone"], reverse=True)
    ]


def report(
    files: dict[str, File],
    losses: Losses,
    speed: list[Row],
    cold: list[Row],
    contended: list[Row],
    larger: Larger,
) -> None:
    """Write the result files, print their tables and the RESULT line."""
    found = measured_claims(files, losses, speed, contended, larger)
    claims = [
        {"claim": claim, "measured": found[key].to_json(), "must hold": bound}
        for key, (claim, bound) in CLAIMS.items()
    ]
    rounds = f"medians of {len(speed)} alternating rounds with 95% intervals"
    grown = [row for _, rows in larger.values() for row in rows]
    others = max(row["others"] for row in (*speed, *cold, *contended, *grown))
    if others > QUIET:
        rounds += f" (disturbed: other processes took up to {100 * others:.0f}% of the machine)"
    tables = {
        "engine_claims": (f"what must hold, {rounds}; of perplexities, over chunks", claims),
        "engine": (
            f"Strop beside llama.cpp and transformers, {rounds}; prefill of 512 tokens, first "
            "token and peak memory of a new process",
            main_table(files, losses, speed, cold),
        ),
        "engine_prefill": (f"tokens per second of prefill, {rounds}", prefill_table(speed)),
        "engine_verification": (
            f"time of a pass over M tokens in times of one, {rounds}",
            verification_table(speed),
        ),
        "engine_growth": (
            f"decoding, {rounds}; the larger models have the shapes of Qwen2.5 and random weights",
            growth_table(files, speed, larger),
        ),
        "engine_contended": (
            f"decoding while another process spins, {rounds}",
            contended_table(contended),
        ),
    }
    kernels = _native.instruction_set()  # results of each are kept
    machine = {
        "processor": environment()["processor"],
        "kernels": f"{kernels} kernels",
        "threads": f"{THREADS} threads",
    }
    text = f"WikiText-2 validation, n = {len(losses[SOURCE])} chunks of 512 tokens"
    for table_name, (title, rows) in tables.items():
        name = f"{table_name}_{kernels}"
        result: Row = {"name": name, "title": title, "machine": machine, "rows": rows}
        if table_name == "engine":
            result["model"] = "SmolLM2-135M-Instruct, whose own linear weights sit on a 4-bit grid"
            result["text"] = text
            result["result"] = {key: value.to_json() for key, value in found.items()}
            result["environment"] = environment()
        write_json(RESULTS / f"{name}.json", result)
        print(table(name))
    print("RESULT " + json.dumps({key: round(value.estimate, 4) for key, value in found.items()}))
