"""How fast `strop rate` reads, beside the engine that does nothing but read the same prompts.

The engine reads what all prompts begin with once, as the rating does; the rating also writes the
replies, reads grades from them and keeps each row on disk. Each rating stands between two readings
and is compared with their mean, so that a machine that changes its speed favours neither. Writes
benchmarks/results/rating.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

from engine_models import HERE
from strop.console import say
from strop.data import write_json, write_rows
from strop.data.instructions import read_instructions
from strop.decoding import CachedSession, encode_prompt
from strop.models import load
from strop.models.environment import environment
from strop.models.interface import Model
from strop.models.packing import pack
from strop.selection.rate import rate
from strop.selection.rubric import open_rubric
from tables import table

ROWS, ROUNDS = 1000, 5
RUBRIC, FORMAT = "accuracy", "bfp8"


def read_all(model: Model, prompts: Sequence[Sequence[int]]) -> float:
    """Read prompts one after another and return the seconds; what they share is read once."""
    cache = CachedSession(model.session())
    start = perf_counter()
    for prompt in prompts:
        cache.prefill(prompt)
    return perf_counter() - start


def rate_all(rows: Path, model: Path, place: Path) -> float:
    """Rate the rows and return the seconds, of which opening the model is a part."""
    shutil.rmtree(place, ignore_errors=True)
    start = perf_counter()
    rate(rows, str(model), place, RUBRIC)
    return perf_counter() - start


def main() -> None:
    """Measure both in turns, and write the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/rating"))
    place = parser.parse_args().output
    packed = place / "model"
    if not packed.is_dir():
        pack("smollm2", FORMAT, packed)
    rows = read_instructions(Path(os.environ["STROP_DATA"]) / "dolly.jsonl").rows[:ROWS]
    write_rows(place / "rows.jsonl", (one.row for one in rows))
    model, rubric = load(str(packed)), open_rubric(RUBRIC)
    prompts = [encode_prompt(model.tokenizer, rubric.asked(one)) for one in rows]
    read_all(model, prompts[:8])
    rounds = []
    before = read_all(model, prompts)
    for number in range(ROUNDS):
        rating = rate_all(place / "rows.jsonl", packed, place / "rated")
        after = read_all(model, prompts)
        efficiency = (before + after) / 2 / rating
        say(f"round {number + 1} of {ROUNDS}: {before:.2f}, {rating:.2f} and {after:.2f} s")
        rounds.append(
            {
                "round": number + 1,
                "before": before,
                "rating": rating,
                "after": after,
                "efficiency": efficiency,
            }
        )
        before = after
    facts = environment()
    tokens = sum(map(len, prompts))
    content = {
        "name": "rating",
        "title": f"Seconds to read and to rate {ROWS} rows of dolly, {tokens:,} tokens of prompts",
        "machine": {
            "processor": facts["processor"],
            "instructions": " ".join(facts["instruction_sets"]),
        },
        "model": f"SmolLM2-135M-Instruct in {FORMAT}",
        "rows": rounds,
    }
    write_json(HERE / "results" / "rating.json", content)
    print(table("rating"))
    middle = median(one["efficiency"] for one in rounds)
    print("RESULT", json.dumps({"rating_efficiency": round(middle, 4)}))


if __name__ == "__main__":
    main()
