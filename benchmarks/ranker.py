"""Rankers on human preferences: right more often than "the shorter answer wins"?

Every pair of hh_harmless.jsonl (dialogues, of whose two last answers people preferred the one that
harms less) is judged by a ranker that was trained on other prompts: the prompts are cut into folds
by their hashes, and each fold is judged by a ranker trained on the rest. Nothing is chosen by the
pairs that are judged. Needs $STROP_DATA; the work is kept in runs/ranker. Writes
benchmarks/results/ranker.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from engine_models import HERE
from strop.console import say
from strop.data import (
    Preference,
    prompt_key,
    read_json,
    read_preferences,
    read_rows,
    write_json,
    write_rows,
)
from strop.models.environment import environment
from strop.stats import paired_difference, verdict, wilson
from strop.training.schedule import TrainingConfig
from strop.tuning.fit import TuneConfig
from strop.tuning.ranker import KINDS, Ranker, RankerConfig
from strop.tuning.tune import tune_ranker
from tables import table

RESULTS = HERE / "results"
MODEL = "smollm2"
FOLDS = 2
RATE, EPOCHS, BATCH = 1e-3, 2.0, 16
TOKENS = 96  #: that are read of a prompt's end, and of each answer


def fold_of(prompt: Any) -> int:
    """Return the fold of a prompt."""
    return int(prompt_key(prompt)[:8], 16) % FOLDS


def judged(kind: str, rows: list[Preference], place: Path, fold: int) -> np.ndarray:
    """Train on all folds but one; return 1 for each pair of that one that is judged right."""
    train, output = place / f"train-{fold}.jsonl", place / f"{kind}-{fold}"
    others = [row for row in rows if fold_of(row.prompt) != fold]
    columns = ("prompt", "chosen", "rejected")
    write_rows(train, [{name: getattr(row, name) for name in columns} for row in others])
    training = TrainingConfig(learning_rate=RATE, epochs=EPOCHS, batch=BATCH)
    config = TuneConfig(training=training, held_out=0.0)
    tune_ranker(MODEL, train, output, RankerConfig(kind, TOKENS, TOKENS), config)
    kept = place / f"{kind}-{fold}-{read_json(output / 'manifest.json')['hash'][:8]}.jsonl"
    if not kept.exists():
        ranker = Ranker(output)
        own = [row for row in rows if fold_of(row.prompt) == fold]
        if kind == "pairwise":
            found = ranker.prefer([(row.prompt, row.chosen, row.rejected) for row in own])
        else:
            scores = ranker.scores([(row.prompt, (row.chosen, row.rejected)) for row in own])
            found = [float(a > b) + 0.5 * (a == b) for a, b in scores]
        write_rows(kept, [{"preferred": one} for one in found])
    preferred = np.array([row["preferred"] for row in read_rows(kept)])
    return (preferred > 0.5) + 0.5 * (preferred == 0.5)


def by_prompt(rows: list[Preference], values: np.ndarray) -> np.ndarray:
    """Return the mean of each prompt's values."""
    groups: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        groups.setdefault(prompt_key(row.prompt), []).append(float(value))
    return np.array([np.mean(one) for one in groups.values()])


def main() -> None:
    """Train what is not trained yet, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/ranker"))
    parser.add_argument("--kinds", nargs="+", default=["pointwise"], choices=list(KINDS))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    every = read_preferences(Path(os.environ["STROP_DATA"]) / "hh_harmless.jsonl").rows
    rows = [row for fold in range(FOLDS) for row in every if fold_of(row.prompt) == fold]
    shorter = np.array(
        [
            float(len(row.chosen) < len(row.rejected))
            + 0.5 * (len(row.chosen) == len(row.rejected))
            for row in rows
        ]
    )
    baseline = by_prompt(rows, shorter)
    rules = {"shorter": baseline, "longer": 1 - baseline}
    rule, baseline = max(rules.items(), key=lambda pair: float(pair[1].mean()))
    found: list[dict[str, Any]] = [
        {
            "ranker": f"the {rule} answer wins",
            "right": wilson(float(baseline.sum()), len(baseline)).to_json(),
            "more than lengths": None,
            "verdict": "",
            "prompts": len(baseline),
        }
    ]
    claims: dict[str, Any] = {}
    for kind in arguments.kinds:
        folds = [judged(kind, rows, arguments.output, fold) for fold in range(FOLDS)]
        right = by_prompt(rows, np.concatenate(folds))
        difference = paired_difference(right, baseline)
        found.append(
            {
                "ranker": f"{kind}, LoRA of rank 8",
                "right": wilson(float(right.sum()), len(right)).to_json(),
                "more than lengths": difference.to_json(),
                "verdict": verdict(difference, lower_is_better=False),
                "prompts": len(right),
            }
        )
        claims[f"{kind}_accuracy"] = round(float(right.mean()), 4)
        claims[f"{kind}_difference_low"] = round(difference.low, 4)
        say(f"{kind}: {100 * right.mean():.1f}%, {difference.scaled(100):+.1f} points")
    facts = environment()
    write_json(
        RESULTS / "ranker.json",
        {
            "name": "ranker",
            "title": f"Rankers on human preferences, each pair judged by one that was trained on "
            f"other prompts ({FOLDS} folds, {EPOCHS:g} epochs)",
            "machine": {"processor": facts["processor"]},
            "model": "SmolLM2-135M-Instruct, whose own linear weights sit on a 4-bit grid",
            "text": "hh-rlhf, harmless",
            "rows": found,
        },
    )
    print(table("ranker"))
    print("RESULT " + json.dumps(claims))


if __name__ == "__main__":
    main()
