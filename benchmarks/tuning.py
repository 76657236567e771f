"""Tuning on preferences beside TRL: seconds a pair, and peak memory.

One preference pair a step, SmolLM2-135M-Instruct, LoRA of rank 8 on all seven linear layers, AdamW,
float32; pairs of 350 + 40 + 40 and of 150 + 250 + 250 tokens; one thread and two. Every run is a
process of its own, in which the first steps are not counted; runs take turns. TRL's defaults
compute in bfloat16, which processors without instructions for it take minutes a pair for: they are
run for one step, once. Needs .venv-peers with TRL and $STROP_DATA; rounds are kept in runs/tuning.
Writes benchmarks/results/tuning_*.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import engine_process
from engine_models import HERE, PEERS
from engine_process import Row, children, rounds
from strop.console import say
from strop.data import make_directory, write_json
from strop.models import Tokenizer, resolve
from strop.models.environment import environment
from strop.stats import bootstrap
from tables import table
from tuning_pairs import write_pairs

RESULTS = HERE / "results"
SHAPES = {"350+40": (350, 40), "150+250": (150, 250)}  #: tokens of prompt and of each answer
THREADS = (1, 2)
STEPS = 4  #: of a run that are counted
ATTEMPTS = 2  #: at a quiet round
OURS = ("slic", "dpo")
TUNED = "trl dpo-tuned"
#: name -> steps that are counted
PEER_KINDS = {"dpo-tuned": STEPS, "cpo-hinge": STEPS, "rloo": 2}
SLOW = {"dpo-default": 1}
WORDS = {
    "strop slic": "strop, SLiC-HF",
    "strop dpo": "strop, DPO with cached reference",
    "trl dpo-tuned": "TRL DPO, float32, no checkpointing, cached reference",
    "trl cpo-hinge": "TRL CPO, hinge with cross-entropy",
    "trl rloo": "TRL RLOO, which writes its 2 answers as well",
    "trl dpo-default": "TRL DPO, its defaults",
}


def one_run(who: str, kind: str, pairs: Path, steps: int, threads: int) -> Row:
    """Train in a process of its own; return the seconds of its steps, and its peak memory."""
    ours = who == "strop"
    python = sys.executable if ours else str(PEERS)
    script = "tuning_worker.py" if ours else "tuning_trl.py"
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                *(python, str(HERE / script), kind, str(resolve("smollm2")), str(pairs)),
                *(str(steps), str(threads), folder),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        children.add(process.pid)
        try:
            output, errors = process.communicate()
        finally:
            process.kill()
            children.discard(process.pid)
    found = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if process.returncode or not found:
        raise SystemExit(f"{who} {kind} failed: {errors[-2000:]}")
    row: Row = json.loads(found[0].removeprefix("RESULT "))
    row["seconds"] = row["seconds"][-steps:]
    return row


def measure(pairs: Path, threads: int, number: int) -> Row:
    """Run everything that is fast enough once, in an order that changes from round to round."""
    runs = [("strop", kind, STEPS) for kind in OURS]
    runs += [("trl", kind, steps) for kind, steps in PEER_KINDS.items()]
    turned = runs[number % len(runs) :] + runs[: number % len(runs)]
    return {
        f"{who} {kind}": one_run(who, kind, pairs, steps, threads) for who, kind, steps in turned
    }


def measure_slow(pairs: Path, threads: int) -> Row:
    """Run TRL's defaults once, and ours beside it."""
    slow = {f"trl {kind}": one_run("trl", kind, pairs, n, threads) for kind, n in SLOW.items()}
    return slow | {"strop dpo": one_run("strop", "dpo", pairs, STEPS, threads)}


def seconds(rows: Sequence[Row], name: str) -> np.ndarray:
    """Return the median seconds a pair of each round."""
    return np.array([np.median(row[name]["seconds"]) for row in rows])


def peak(rows: Sequence[Row], name: str) -> float:
    """Return the median peak memory in GB."""
    return float(np.median([row[name]["peak_bytes"] for row in rows])) / 1e9


def table_rows(shape: str, threads: int, rows: Sequence[Row], slow: Sequence[Row]) -> list[Row]:
    """Return the rows of the table for one cell."""
    found = []
    for name, words in WORDS.items():
        own = slow if name == "trl dpo-default" else rows
        beside = "strop dpo" if "dpo" in name else "strop slic"
        ratios = seconds(own, name) / seconds(own, beside)
        ratio: Any = float(np.median(ratios))
        if len(ratios) > 1:
            ratio = bootstrap(ratios, lambda some: np.median(some, axis=-1)).to_json()
        found.append(
            {
                "trainer": words,
                "tokens": shape,
                "threads": threads,
                "seconds a pair": float(np.median(seconds(own, name))),
                "times ours": ratio,
                "peak GB": peak(own, name),
                "rounds": len(own),
            }
        )
    return found


def claims(cells: dict[tuple[str, int], tuple[list[Row], list[Row]]]) -> dict[str, float]:
    """Return the keys of the RESULT line: the worst over one thread and two."""

    def ratio(shape: str, name: str, ours: str) -> float:
        values = []
        for (found, _), (rows, slow) in cells.items():
            own = slow if name in slow[0] and name not in rows[0] else rows
            if found == shape:
                values.append(float(np.median(seconds(own, name) / seconds(own, ours))))
        return min(values)

    def memory(shape: str) -> float:
        parts = [rows for (found, _), (rows, _) in cells.items() if found == shape]
        return max(peak(rows, "strop slic") / peak(rows, TUNED) for rows in parts)

    return {
        "vs_trl_tuned_long_prompt": ratio("350+40", TUNED, "strop slic"),
        "vs_trl_tuned_long_completion": ratio("150+250", TUNED, "strop slic"),
        "rss_vs_trl_tuned": max(map(memory, SHAPES)),
        "vs_trl_default": min(ratio(shape, "trl dpo-default", "strop dpo") for shape in SHAPES),
        "vs_trl_cpo_hinge": min(ratio(shape, "trl cpo-hinge", "strop slic") for shape in SHAPES),
    }


def main() -> None:
    """Measure what is not measured yet, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/tuning"))
    arguments = parser.parse_args()
    engine_process.ATTEMPTS = ATTEMPTS
    make_directory(arguments.output)
    text = (Path(os.environ["STROP_DATA"]) / "wikitext2_valid.txt").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_directory(resolve("smollm2"))
    cells: dict[tuple[str, int], tuple[list[Row], list[Row]]] = {}
    for shape, (prompt, answer) in SHAPES.items():
        pairs = arguments.output / f"{shape}.jsonl"
        if not pairs.exists():
            write_pairs(tokenizer, text, prompt, answer, pairs)
        for threads in THREADS:
            kept = arguments.output / f"{shape}-{threads}"
            rows = rounds(
                kept.with_suffix(".json"),
                arguments.rounds,
                lambda number, pairs=pairs, threads=threads: measure(pairs, threads, number),
            )
            slow = rounds(
                Path(f"{kept}-slow.json"),
                1,
                lambda _, pairs=pairs, threads=threads: measure_slow(pairs, threads),
            )
            cells[shape, threads] = rows, slow
    write_results(cells)


def write_results(cells: dict[tuple[str, int], tuple[list[Row], list[Row]]]) -> None:
    """Write the result file, and print the table and the claims."""
    facts = environment()
    level = "avx512" if "avx512f" in facts["instruction_sets"] else "avx2"
    others = max(row["others"] for rows, slow in cells.values() for row in [*rows, *slow])
    machine = {
        "processor": facts["processor"],
        "instructions": " ".join(facts["instruction_sets"]),
        "torch": f"torch {facts['versions']['torch']}, TRL 1.16.0",
    }
    result = {
        "name": f"tuning_{level}",
        "title": "Training on one preference pair a step, LoRA of rank 8; medians over rounds with "
        f"95% intervals (other processes took up to {others:.0%} of the machine)",
        "machine": machine,
        "model": "SmolLM2-135M-Instruct",
        "rows": [
            row
            for (shape, threads), (rows, slow) in cells.items()
            for row in table_rows(shape, threads, rows, slow)
        ],
    }
    write_json(RESULTS / f"tuning_{level}.json", result)
    found = claims(cells)
    write_json(
        RESULTS / f"tuning_claims_{level}.json",
        {"name": f"tuning_claims_{level}", "machine": machine, "rows": [found]},
    )
    print(table(f"tuning_{level}"))
    rounded = {name: round(value, 3) for name, value in found.items()}
    say(f"results for {level}")
    print("RESULT " + json.dumps(rounded))


if __name__ == "__main__":
    main()
