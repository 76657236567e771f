"""Every selector at one budget, beside random rows, rows of the same lengths, and more rows.

Dolly's rows of at most 384 tokens: 120 to test on, 32 as the target, the first 1,800 others as the
pool, which is dealt into three parts. From each part every selector chooses 112 rows (19%, about
the share that AlpaGasus keeps); SmolLM2-135M with LoRA learns from them once. Random rows have five
runs. What choosing costs is counted in seconds, beside those of a run's training, and each selector
is also compared with three times as many random rows. Frozen weights have the fastest type.
Who is killed goes on.
Writes benchmarks/results/selection*.json, and docs/concepts/selection.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from engine_models import HERE
from strop.console import say
from strop.data import (
    prompt_key,
    read_json,
    read_rows,
    read_text,
    sha256_json,
    write_json,
    write_rows,
    write_text,
)
from strop.data.instructions import Instruction, read_instructions, unique
from strop.models import load, resolve
from strop.models.environment import environment
from strop.models.packing import pack
from strop.selection.embed import embed
from strop.selection.rate import rate
from strop.selection.scores import score
from strop.selection.select import SelectConfig
from strop.selection.subset import items_of, losses_of_run
from strop.selection.trial import DIFFERENCES, TrialConfig, trial
from strop.selection.trial_plan import Runs
from strop.selection.trial_report import LOSS, UNTRAINED
from strop.stats import Interval
from strop.training.network import NetworkConfig, open_source
from strop.training.schedule import TrainingConfig
from strop.tuning.fit import TuneConfig
from strop.tuning.ranker import RankerConfig, type_to_read
from strop.tuning.tune import RANKER_RATE, tune_ranker
from tables import table

MODEL, FORMAT = "smollm2", "bfp8"
LONGEST, TESTS, TARGETS, POOL, KEEP = 384, 120, 32, 1800, 112
PAIRS = 384  #: preferences that the ranker learns from
ONCE = ("ranker",)  #: steps that cost as much for one part of the pool as for all of it
RUBRICS = ("accuracy", "helpfulness", "complexity", "quality")
TASKS = ("openbookqa", "instructions")
RUNS = Runs(parts=3, random=5, more=3.0)
CONFIG = TrialConfig(
    runs=RUNS,
    tasks=TASKS,
    limit=100,
    training=TrainingConfig(learning_rate=2e-3, epochs=1, batch=8),
)


@dataclass(frozen=True)
class Selector:
    """A way to choose, and the steps whose cost it has."""

    by: str
    steps: tuple[str, ...] = ()
    distinct: float = 1.0
    most: Mapping[str, float] = field(default_factory=dict)


SELECTORS = {
    "longest": Selector("length"),
    "accuracy (AlpaGasus)": Selector("accuracy", ("accuracy",)),
    "accuracy, expected": Selector("accuracy-expected", ("accuracy",)),
    "helpfulness, expected": Selector("helpfulness-expected", ("helpfulness",)),
    "complexity x quality (DEITA)": Selector(
        "complexity-expected*quality-expected", ("complexity", "quality", "embed"), 0.9
    ),
    "IFD (Cherry)": Selector("ifd", ("ifd",), most={"ifd": 1.0}),
    "IFD of perplexities": Selector("ifd-perplexity", ("ifd",), most={"ifd-perplexity": 1.0}),
    "highest perplexity": Selector("perplexity", ("perplexity",)),
    "lowest perplexity": Selector("-perplexity", ("perplexity",)),
    "target": Selector("target", ("target",)),
    "influence (LESS)": Selector("influence", ("influence",)),
    "reward": Selector("reward", ("ranker", "reward")),
    "k-center": Selector("k-center", ("embed",)),
    "facility location": Selector("facility-location", ("embed",)),
}


def prepare_rows(place: Path) -> None:
    """Write the pool, the rows to test on and the target; no prompt is in two of them."""
    path = Path(os.environ["STROP_DATA"]) / "dolly.jsonl"
    source = open_source(MODEL)
    rows = unique(read_instructions(path).rows, path)
    short = [
        one
        for one, item in items_of(rows, source)
        if len(item.prompt) + len(item.target) <= LONGEST
    ]
    groups: dict[str, list[Instruction]] = {}
    for one in sorted(short, key=lambda one: sha256_json([0, one.prompt])):
        groups.setdefault(prompt_key(one.prompt), []).append(one)
    left = iter(groups.values())
    for name, size in (("tests", TESTS), ("target", TARGETS), ("pool", POOL)):
        some: list[Instruction] = []
        while len(some) < size:
            some += next(left)[: size - len(some)]
        write_rows(
            place / f"{name}.jsonl",
            ({"prompt": one.prompt, "completion": one.completion} for one in some),
        )


def give_scores(place: Path) -> None:
    """Give the pool all scores, one step after another; each is done once."""
    small = place / "model"
    if not small.is_dir():
        pack(MODEL, FORMAT, small)
    pairs = read_rows(Path(os.environ["STROP_DATA"]) / "hh_harmless.jsonl")[:PAIRS]
    write_rows(place / "pairs.jsonl", pairs)
    tune_ranker(
        MODEL,
        place / "pairs.jsonl",
        place / "ranker",
        RankerConfig(kind="pointwise"),
        TuneConfig(training=TrainingConfig(learning_rate=RANKER_RATE), held_out=0.0),
    )
    target = place / "target.jsonl"
    steps: dict[str, Callable[[Path, Path], Any]] = {
        "length": lambda rows, to: score(rows, ["length"], to),
        "perplexity": lambda rows, to: score(rows, ["perplexity"], to, str(small)),
        "ifd": lambda rows, to: score(rows, ["ifd", "ifd-perplexity"], to, str(small)),
        "target": lambda rows, to: score(rows, ["target"], to, str(small), target),
        "influence": lambda rows, to: score(rows, ["influence"], to, MODEL, target),
        "reward": lambda rows, to: score(rows, ["reward"], to, ranker=place / "ranker"),
    }
    steps |= {rubric: partial(graded, str(small), rubric) for rubric in RUBRICS}
    before = place / "pool.jsonl"
    for name, step in steps.items():
        # One that was broken off is made anew, so that its seconds are those of all of it.
        shutil.rmtree(place / f"{name}.work", ignore_errors=True)
        step(before, place / name)
        before = place / name
    write_rows(place / "scored.jsonl", read_rows(before / "rows.jsonl"))


def graded(rater: str, rubric: str, rows: Path, to: Path) -> None:
    """Rate rows."""
    rate(rows, rater, to, rubric)


def costs_of(place: Path, network: NetworkConfig) -> dict[str, float]:
    """Return the seconds of each step over the pool, and of a run's training on random rows."""
    folders = ("ranker", "perplexity", "ifd", "target", "influence", "reward", *RUBRICS)
    found = {name: read_json(place / name / "manifest.json")["seconds"] for name in folders}
    note = place / "seconds.json"
    if not note.is_file():
        rows = read_instructions(place / "pool.jsonl").rows
        start = perf_counter()
        embed(
            load(str(place / "model")),
            [(one.prompt, one.completion) for one in rows],
            place / f"embedded-{start}",
        )
        times = {"embed": perf_counter() - start}
        source = open_source(MODEL)
        items = items_of(rows[:KEEP], source)
        for name, training in (("opened", None), ("trained", CONFIG.training)):
            start = perf_counter()
            losses_of_run(source, network, training, items, items[:8], place / f"{name}-{start}")
            times[name] = perf_counter() - start
        write_json(note, times)
    times = read_json(note)
    return found | {"embed": times["embed"], "run": times["trained"] - times["opened"]}


def rows_of(
    facts: Mapping[str, Any], measure: str, scale: float, costs: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return the rows of a table: each selector against each kind of random rows."""
    found = []
    for name, one in facts["measures"][measure]["selectors"].items():
        row: dict[str, Any] = {"selector": name}
        for against, compared in one["against"].items():
            difference = Interval(**compared["difference"]).scaled(scale)
            ends = ("estimate", "low", "high")
            rounded = {end: round(getattr(difference, end), 4) + 0.0 for end in ends}
            row[f"against {against}"] = difference.to_json() | rounded
        p = one["against"]["random"]["p_holm"]
        row["p, corrected"] = round(p, 3) if p >= 0.001 else "< 0.001"
        row["better than random?"] = one["against"]["random"]["verdict"]
        row["tokens of an answer"] = round(facts["cost"][name]["answer_tokens"])
        steps = SELECTORS[name].steps
        seconds = sum(costs[step] / (1 if step in ONCE else RUNS.parts) for step in steps)
        row["choosing costs, in runs"] = round(seconds / costs["run"], 1)
        found.append(row)
    return found


def write_tables(
    facts: Mapping[str, Any], costs: Mapping[str, float], rater: Mapping[str, Any], dtype: str
) -> None:
    """Write a result file for each measure."""
    about = environment()
    for measure, found in facts["measures"].items():
        short = measure.split(",")[0]
        unit = "nats per token" if measure == LOSS else "points"
        scale = 1.0 if measure == LOSS else 100.0
        better = "lower" if found["lower_is_better"] else "higher"
        random = found["random"]
        learned = Interval(**found["learned"]["difference"]).scaled(scale)
        name = "selection" if measure == LOSS else f"selection_{short}"
        title = (
            f"{measure}: differences in {unit}, {better} is better. Untrained "
            f"{scale * facts[UNTRAINED][measure]:.4g}, after {KEEP} random rows "
            f"{scale * random['mean']:.4g} (a difference of {learned:+.3g}; deviation of "
            f"{RUNS.random} runs {scale * random['deviation']:.2g}), n = {found['n']}"
        )
        content = {
            "name": name,
            "title": title,
            "machine": {
                "processor": about["processor"],
                "instructions": " ".join(about["instruction_sets"]),
            },
            "model": f"SmolLM2-135M-Instruct, LoRA of rank 8, {dtype}",
            "text": f"dolly, {POOL} rows in {RUNS.parts} parts",
            "rows": rows_of(facts, measure, scale, costs),
        }
        if measure == LOSS:
            seconds = {step: round(spent, 1) for step, spent in costs.items()}
            content |= {"seconds": seconds, "rater": rater}
        write_json(HERE / "results" / f"{name}.json", content)
        print(table(name))


def main() -> None:
    """Score the pool, run the trial, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/selection"))
    place = parser.parse_args().output
    place.mkdir(parents=True, exist_ok=True)
    prepare_rows(place)
    give_scores(place)
    dtype = type_to_read(resolve(MODEL), place)
    config = replace(CONFIG, network=NetworkConfig(dtype=dtype))
    costs = costs_of(place, config.network)
    say(json.dumps(costs))
    small = str(place / "model")
    selectors = {
        name: SelectConfig(
            by=one.by,
            keep=KEEP,
            distinct=one.distinct,
            most=one.most,
            model=small if "embed" in one.steps else "",
        )
        for name, one in SELECTORS.items()
    }
    tests, pool = place / "tests.jsonl", place / "scored.jsonl"
    facts = trial(MODEL, pool, place / "trial", selectors, config, tests, processes=2)
    drawn = HERE.parent / "docs" / "concepts" / "selection.svg"
    write_text(drawn, read_text(place / "trial" / DIFFERENCES))
    rated = read_json(place / "accuracy" / "manifest.json")["facts"]
    shown = ("rows", "grades", "unrated", "expected_deciles", "mass", "agreement")
    write_tables(facts, costs, {name: rated[name] for name in shown}, dtype)
    found = facts["measures"][LOSS]["selectors"]
    best = min(found, key=lambda name: found[name]["mean"])
    difference = found[best]["against"]["random"]["difference"]
    verdicts = [one["against"]["random"]["verdict"] for one in found.values()]
    result = {
        "selectors": len(found),
        "better_than_random": verdicts.count("better"),
        "worse_than_random": verdicts.count("worse"),
        "best": best,
        "best_difference": round(difference["estimate"], 4),
        "best_high": round(difference["high"], 4),
        "random": round(facts["measures"][LOSS]["random"]["mean"], 4),
    }
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    main()
