"""Tuning on preferences beside TRL: seconds a pair, and peak memory.

One preference pair a step, SmolLM2-135M-Instruct, LoRA of rank 8 on all seven linear layers, AdamW;
pairs of 350 + 40 + 40 and of 150 + 250 + 250 tokens; one thread and two. Like is compared with
like: float32 with float32, and where bfloat16 is faster (a processor with instructions for it),
bfloat16 with bfloat16 as well. TRL's defaults compute in bfloat16 everywhere; they are compared
with ours in the type that ours chooses here, and run for one step, once, where they take minutes a
pair. Every run is a process of its own, in which the first steps are not counted; runs take turns.
Needs .venv-peers with TRL and $STROP_DATA; rounds are kept in runs/tuning. Writes
benchmarks/results/tuning_*.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import engine_process
from engine_models import HERE, PEERS
from engine_process import Row, children, rounds
from strop.console import say
from strop.data import make_directory, sha256_json, write_json
from strop.models import Tokenizer, resolve
from strop.models.environment import environment
from strop.training.fitting import fastest_type
from tables import table
from tuning_pairs import write_pairs

RESULTS = HERE / "results"
SHAPES = {"350+40": (350, 40), "150+250": (150, 250)}  #: tokens of prompt and of each answer
THREADS = (1, 2)
STEPS = 4  #: of a run that are counted
ATTEMPTS = 2  #: at a quiet round
DEFAULT = ("trl dpo-default",)
TUNED = ("trl dpo-tuned", "trl cpo-hinge")  #: each compared with our loss of its kind
WORDS = {
    "strop slic": "strop, SLiC-HF",
    "strop dpo": "strop, DPO with cached reference",
    "trl dpo-tuned": "TRL DPO, no checkpointing, cached reference",
    "trl cpo-hinge": "TRL CPO, hinge with cross-entropy",
    "trl rloo": "TRL RLOO, which writes its 2 answers as well",
    "trl dpo-default": "TRL DPO, its defaults",
}


class Kind(NamedTuple):
    """Something that is run, and what of ours it is compared with."""

    name: str
    dtype: str
    beside: str
    beside_dtype: str
    steps: int = STEPS  #: that are counted

    @property
    def key(self) -> str:
        """Return the name in a row."""
        return f"{self.name} {self.dtype}"

    @property
    def other(self) -> str:
        """Return the name in a row of what it is compared with."""
        return f"{self.beside} {self.beside_dtype}"


def kinds(chosen: str) -> tuple[list[Kind], list[Kind]]:
    """Return what runs in every round, and what runs once, where ours chooses a type."""
    pairs = {
        "strop slic": "strop slic",
        "strop dpo": "strop dpo",
        "trl dpo-tuned": "strop dpo",
        "trl cpo-hinge": "strop slic",
    }
    types = dict.fromkeys(("float32", chosen))
    often = [Kind(name, dtype, ours, dtype) for dtype in types for name, ours in pairs.items()]
    often.append(Kind("trl rloo", "float32", "strop slic", "float32", 2))
    default = Kind("trl dpo-default", "bfloat16", "strop dpo", chosen)
    if chosen == "bfloat16":
        return [*often, default], []
    once = default._replace(steps=1), Kind("strop dpo", chosen, "strop dpo", chosen)
    return often, list(once)


def one_run(kind: Kind, pairs: Path, threads: int) -> Row:
    """Train in a process of its own; return the seconds of its steps, and its peak memory."""
    who, loss = kind.name.split()
    ours = who == "strop"
    python = sys.executable if ours else str(PEERS)
    script = "tuning_worker.py" if ours else "tuning_trl.py"
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                *(python, str(HERE / script), loss, kind.dtype, str(resolve("smollm2"))),
                *(str(pairs), str(kind.steps), str(threads), folder),
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
        raise SystemExit(f"{kind.key} failed: {errors[-2000:]}")
    row: Row = json.loads(found[0].removeprefix("RESULT "))
    row["seconds"] = row["seconds"][-kind.steps :]
    return row


def measure(kinds: Sequence[Kind], pairs: Path, threads: int, number: int) -> Row:
    """Run everything once, in an order that changes from round to round."""
    first = number * 4 % len(kinds)
    turned = [*kinds[first:], *kinds[:first]]
    return {kind.key: one_run(kind, pairs, threads) for kind in turned}


def seconds(rows: Sequence[Row], key: str) -> np.ndarray:
    """Return the median seconds a pair of each round."""
    return np.array([np.median(row[key]["seconds"]) for row in rows])


def peak(rows: Sequence[Row], key: str) -> float:
    """Return the median peak memory in GB."""
    return float(np.median([row[key]["peak_bytes"] for row in rows])) / 1e9


class Cell(NamedTuple):
    """The rounds of one shape with a number of threads."""

    shape: str
    threads: int
    kinds: tuple[list[Kind], list[Kind]]
    rows: tuple[list[Row], list[Row]]  #: of the former, and of the latter

    def each(self) -> Iterator[tuple[Kind, list[Row]]]:
        """Return what was run, with its rounds, in the order of the table."""
        for kinds, rows in zip(self.kinds, self.rows, strict=True):
            yield from ((kind, rows) for kind in kinds if rows)


def table_rows(cell: Cell) -> Iterator[Row]:
    """Return the rows of the table for one cell."""
    seen = set()
    for kind, rows in cell.each():
        if kind.key in seen:  # ours beside what is run once
            continue
        seen.add(kind.key)
        ratios = seconds(rows, kind.key) / seconds(rows, kind.other)
        ratio: Any = f"{np.median(ratios):.3f}"
        if len(ratios) > 1:
            ratio += f", {ratios.min():.3f} to {ratios.max():.3f}"
        yield {
            "trainer": WORDS[kind.name],
            "type": kind.dtype,
            "tokens": cell.shape,
            "threads": cell.threads,
            "seconds a pair": float(np.median(seconds(rows, kind.key))),
            "times ours": "" if kind.key == kind.other else ratio,
            "peak GB": peak(rows, kind.key),
            "of which ours": peak(rows, kind.other) / peak(rows, kind.key),
            "rounds": len(rows),
        }


def claims(cells: Sequence[Cell]) -> dict[str, float]:
    """Return the keys of the RESULT line: the worst over threads, and over types."""
    every = [(cell, kind, rows) for cell in cells for kind, rows in cell.each()]

    def ratio(names: Sequence[str], shape: str) -> float:
        return min(
            float(np.median(seconds(rows, kind.key) / seconds(rows, kind.other)))
            for cell, kind, rows in every
            if kind.name in names and cell.shape == shape
        )

    long_prompt, long_completion = SHAPES
    return {
        "vs_trl_tuned_long_prompt": ratio(TUNED, long_prompt),
        "vs_trl_tuned_long_completion": ratio(TUNED, long_completion),
        "rss_vs_trl_tuned": max(
            peak(rows, kind.other) / peak(rows, kind.key)
            for _, kind, rows in every
            if kind.name in TUNED
        ),
        "vs_trl_default": ratio(DEFAULT, long_prompt),
        "vs_trl_default_long_completion": ratio(DEFAULT, long_completion),
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
    chosen = fastest_type(resolve("smollm2"))
    often, once = kinds(chosen)
    digest = sha256_json([SHAPES, often, once])[:8]  # of all that is measured
    cells = []
    for shape, (prompt, answer) in SHAPES.items():
        pairs = arguments.output / f"{shape}.jsonl"
        if not pairs.exists():
            write_pairs(tokenizer, text, prompt, answer, pairs)
        for threads in THREADS:
            place = arguments.output / f"{shape}-{threads}-{digest}"
            rows = rounds(
                place.with_suffix(".json"),
                arguments.rounds,
                partial(measure, often, pairs, threads),
            )
            last = Path(f"{place}-once.json")
            slow = rounds(last, 1, partial(measure, once, pairs, threads)) if once else []
            cells.append(Cell(shape, threads, (often, once), (rows, slow)))
    write_results(cells)


def write_results(cells: Sequence[Cell]) -> None:
    """Write the result file, and print the table and the claims."""
    facts = environment()
    level = "avx512" if "avx512f" in facts["instruction_sets"] else "avx2"
    others = max(row["others"] for cell in cells for rows in cell.rows for row in rows)
    [peer] = {
        found["version"]
        for cell in cells
        for kind, rows in cell.each()
        for row in rows
        if "version" in (found := row[kind.key])
    }
    machine = {
        "processor": facts["processor"],
        "instructions": " ".join(facts["instruction_sets"]),
        "torch": f"torch {facts['versions']['torch']}, {peer}",
    }
    result = {
        "name": f"tuning_{level}",
        "title": "Training on one preference pair a step, LoRA of rank 8; medians and "
        f"ranges over rounds (other processes took up to {others:.0%} of the machine)",
        "machine": machine,
        "model": "SmolLM2-135M-Instruct",
        "rows": [row for cell in cells for row in table_rows(cell)],
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
