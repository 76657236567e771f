"""The steps of the SLiC-HF study: what all seeds have in common, and the arms of one seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from strop.data import read_json, read_rows, write_json, write_rows
from strop.models import Tokenizer, resolve
from strop.stats import Interval, wilson
from strop.training.schedule import TrainingConfig
from strop.tuning.answers import entering
from strop.tuning.fit import TuneConfig
from strop.tuning.judge import judge
from strop.tuning.pairs import PairsConfig, pairs
from strop.tuning.rank import rank
from strop.tuning.ranker import Ranker, RankerConfig
from strop.tuning.sample import SampleConfig, sample
from strop.tuning.tune import tune_preference, tune_ranker, tune_sft

MODEL = "smollm2"
ASKED = "Summarize in one sentence:\n\n"
MOST = 220  #: tokens of an abstract
SEEDS = (0, 1, 2)
PART = 384  #: abstracts for SFT, for the ranker and for the judge; 128 are left for tuning
PROMPTS = 96  #: of those, for each seed
TESTED = 128  #: abstracts of the development set
DRAWN = 8  #: answers to each prompt, which are ranked
MAX_TOKENS = 64
HELD_OUT = 0.25  #: of the prompts of the SFT model and of both rankers
PARTS = ("sft", "preferences", "judge", "tuning")  #: of the training set
ARMS = ("more SFT", "best-of-n", "direct", "sample-rank", "dpo")
SFT_RATE = 3e-4
RATE = 1e-4  #: of all arms, if nothing else is said
RANKER_RATE = 1e-3  #: of both rankers
EPOCHS, BATCH = 2, 8  #: of all arms and both rankers
READ = RankerConfig("pointwise", prompt_tokens=320, answer_tokens=MAX_TOKENS)


def abstracts(name: str, most: int) -> list[dict[str, Any]]:
    """Return rows of the data with prompt and summaries."""
    tokenizer = Tokenizer.from_directory(resolve(MODEL))
    path = Path(os.environ["STROP_DATA"]) / f"scitldr_{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    short = [row for row in rows if len(tokenizer.encode(row["source"], special=False)) <= most]
    return [{"prompt": ASKED + row["source"], "summaries": row["target"]} for row in short]


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows; stages that were made from the same are not made again."""
    write_rows(path, rows)
    return path


def with_completion(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with the human summary as the completion."""
    return [{"prompt": row["prompt"], "completion": row["summaries"][0]} for row in rows]


def preferences(samples: Path) -> list[dict[str, Any]]:
    """Prefer the human line over the one that was drawn, where they differ."""
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["reference"],
            "rejected": row["candidates"][place],
            "reference": row["reference"],
        }
        for row in read_rows(samples / "rows.jsonl")
        for place in entering(row)
        if row["candidates"][place] != row["reference"]
    ]


def config(rate: float, epochs: float, seed: int, held_out: float) -> TuneConfig:
    """Return the settings of a run."""
    training = TrainingConfig(learning_rate=rate, epochs=epochs, batch=BATCH, seed=seed)
    return TuneConfig(training=training, held_out=held_out)


def prepared(place: Path) -> None:
    """Make what all seeds have in common: the SFT model, preferences, ranker and judge."""
    train = abstracts("train", MOST)
    order = np.random.default_rng(0).permutation(len(train))
    chosen = [train[index] for index in order]
    cuts = zip(PARTS, (chosen[at : at + PART] for at in range(0, len(chosen), PART)), strict=True)
    parts = dict(cuts)
    for name, rows in parts.items():
        written(place / f"{name}.jsonl", with_completion(rows))
    tests = abstracts("dev", MOST)[:TESTED]
    written(place / "tests.jsonl", with_completion(tests))
    written(place / "summaries.jsonl", tests)
    tune_sft(MODEL, place / "sft.jsonl", place / "sft", config(SFT_RATE, 1, 0, HELD_OUT))
    for name in PARTS[1:]:
        one = SampleConfig(1, max_tokens=MAX_TOKENS)
        sample(str(place / "sft"), place / f"{name}.jsonl", place / f"{name}-samples", one)
        rows = preferences(place / f"{name}-samples")
        written(place / f"{name}-pairs.jsonl", rows)
    reading = config(RANKER_RATE, EPOCHS, 0, HELD_OUT)
    known = {name: place / f"{name}-pairs.jsonl" for name in ("preferences", "judge")}
    tune_ranker(MODEL, known["preferences"], place / "ranker", READ, reading)
    both = replace(READ, kind="pairwise")
    tune_ranker(MODEL, known["judge"], place / "judge", both, reading)
    for name, other in (("ranker", "judge"), ("judge", "preferences")):
        kept = right_path(place, name)
        if not kept.exists():
            write_json(kept, right(place / name, known[other]).to_json())
    answers(place / "sft", place)


def right_path(place: Path, name: str) -> Path:
    """Return where it is kept how often a ranker is right."""
    digest = read_json(place / name / "manifest.json")["hash"][:8]
    return place / f"{name}-{digest}-right.json"


def right(ranker: Path, pairs: Path) -> Interval:
    """Return how often a ranker is right on pairs that it was not trained on."""
    reads = Ranker(ranker)
    rows = read_rows(pairs)
    if reads.config.kind == "pairwise":
        found = reads.prefer([(row["prompt"], row["chosen"], row["rejected"]) for row in rows])
    else:
        asked = [(row["prompt"], (row["chosen"], row["rejected"])) for row in rows]
        found = [0.5 + (a - b) / 2 for a, b in reads.scores(asked)]
    return wilson(sum((one > 0.5) + 0.5 * (one == 0.5) for one in found), len(found))


def answers(model: Path, place: Path) -> Path:
    """Let a model answer the tests, greedily."""
    output = model.parent / f"{model.name}-answers"
    greedy = SampleConfig(1, temperature=0.0, max_tokens=MAX_TOKENS)
    sample(str(model), place / "tests.jsonl", output, greedy)
    return output


def alone(stage: Callable[..., Any], *arguments: Any) -> None:
    """Run a stage in a process of its own, whose peak memory is that of the stage."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(stage, *arguments).result()


def one_seed(place: Path, here: Path, seed: int, rate: float) -> None:
    """Train and judge every arm from one seed."""
    here.mkdir(exist_ok=True)
    known = read_rows(place / "tuning-pairs.jsonl")
    order = np.random.default_rng(seed).permutation(len(known))[:PROMPTS]
    direct = written(here / "direct.jsonl", [known[index] for index in order])
    asked = [{"prompt": row["prompt"], "reference": row["reference"]} for row in read_rows(direct)]
    prompts = written(here / "prompts.jsonl", asked)
    sft = str(place / "sft")
    # Seed 0 drew what the preferences are made of.
    drawn = SampleConfig(DRAWN, max_tokens=MAX_TOKENS, seed=seed + 1)
    sample(sft, prompts, here / "samples", drawn)
    rank(place / "ranker", here / "samples", here / "ranked")
    pairs([here / "ranked"], here / "pairs", PairsConfig(0.0, seed=seed))
    pairs([here / "ranked"], here / "best", PairsConfig(0.0, "best", seed=seed))
    settings = config(rate, EPOCHS, seed, 0.0)
    human = [{"prompt": row["prompt"], "completion": row["reference"]} for row in read_rows(direct)]
    alone(tune_sft, sft, written(here / "human.jsonl", human), here / "more SFT", settings)
    alone(tune_preference, sft, [here / "best"], here / "best-of-n", "best-of-n", None, settings)
    alone(tune_preference, sft, [direct], here / "direct", "slic", None, settings)
    alone(tune_preference, sft, [here / "pairs"], here / "sample-rank", "slic", None, settings)
    alone(tune_preference, sft, [here / "pairs"], here / "dpo", "dpo", None, settings)
    for arm in ARMS:
        given = answers(here / arm, place)
        judge(given, place / "sft-answers", here / f"{arm}-verdict", place / "judge")
