"""The SLiC-HF study: does tuning on ranked samples help, and what does it cost?

SmolLM2-135M-Instruct learns to write the one line that sums up an abstract (SciTLDR; abstracts of
at most 220 tokens). The training set is cut into four parts: for SFT, for the ranker, for the
judge, and for tuning. A preference is the human line over one that the SFT model wrote. A pointwise
ranker learns from those of its part, and the judge, a pairwise one, from those of its own; each is
tried on the other's. For each seed, all from the same SFT model and for the same prompts:

    more SFT      continued SFT on the human lines
    best-of-n     continued SFT on the best of 8 samples, as the ranker says
    direct        SLiC-HF on preferences as they are
    sample-rank   SLiC-HF on pairs of 8 samples, ranked by the ranker
    dpo           DPO on the same pairs

Each answers abstracts of the development set, greedily, and is judged against SFT: by the judge,
by ROUGE-L against the human summaries, and by length. Needs $STROP_DATA; the work is kept in
runs/slic. Writes benchmarks/results/slic_*.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from engine_models import HERE
from slic_study import ARMS, EPOCHS, MODEL, MOST, RATE, SEEDS, one_seed, prepared, right_path
from strop.console import say
from strop.data import read_json, read_preferences, read_rows, write_json
from strop.models import Tokenizer, resolve
from strop.models.environment import environment
from strop.stats import Interval, against_half, bootstrap, length_controlled
from strop.tuning.answers import entering
from strop.tuning.encode import prompt_ids
from strop.tuning.items import preference_items
from strop.tuning.losses import LOSSES
from strop.tuning.overlap import rouge_l
from tables import table

RESULTS = HERE / "results"


def agreement(seeds: Sequence[Path]) -> Interval:
    """Return how often the ranker and ROUGE-L prefer the same of two samples, mean by prompt.

    Pairs of equal ROUGE-L, or that the ranker cannot tell apart, are not counted.
    """
    shares: dict[str, list[float]] = {}
    for seed in seeds:
        for row in read_rows(seed / "ranked" / "rows.jsonl"):
            places = entering(row)
            overlap = {at: rouge_l(row["candidates"][at], [row["reference"]]) for at in places}
            value = dict(enumerate(row["values"]))
            shares.setdefault(row["prompt"], []).extend(
                float((overlap[a] > overlap[b]) == (value[a] > value[b]))
                for a, b in combinations(places, 2)
                if overlap[a] != overlap[b] and value[a] != value[b]
            )
    return bootstrap(np.array([np.mean(one) for one in shares.values() if one]))


def by_prompt(path: Path) -> dict[str, dict[str, Any]]:
    """Read rows, by their prompts."""
    return {row["prompt"]: row for row in read_rows(path)}


def arm_rows(place: Path, arm: str, seeds: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a row for each test prompt: wins by seed, and means over seeds of the rest."""
    summaries = {row["prompt"]: row["summaries"] for row in read_rows(place / "summaries.jsonl")}
    every = [by_prompt(seed / f"{arm}-verdict" / "rows.jsonl") for seed in seeds]
    found = []
    for prompt in every[0]:
        known, rows = summaries[prompt], [rows[prompt] for rows in every]
        preferred = [row["preferred"] for row in rows]
        found.append(
            {
                "wins": [(p > 0.5) + 0.5 * (p == 0.5) for p in preferred],
                "overlap": float(np.mean([rouge_l(row["answers"][0], known) for row in rows])),
                "overlap before": rouge_l(rows[0]["answers"][1], known),
                "tokens": float(np.mean([row["tokens"][0] for row in rows])),
                "tokens before": float(rows[0]["tokens"][1]),
                "repeated": float(np.mean([row["repeated"][0] for row in rows])),
                "repeated before": float(rows[0]["repeated"][1]),
            }
        )
    return found


def result_rows(place: Path, seeds: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the rows of the table."""
    rows: list[dict[str, Any]] = []
    for arm in ARMS:
        found = arm_rows(place, arm, seeds)
        column = {name: np.array([row[name] for row in found]) for name in found[0]}
        wins = column["wins"].mean(1)
        longer = column["tokens"] - column["tokens before"]
        if not rows:
            rows.append(
                {
                    "arm": "SFT",
                    "wins against SFT": 0.5,
                    "of each seed": "",
                    "verdict": "",
                    "at equal length": 0.5,
                    "ROUGE-L": bootstrap(column["overlap before"]).to_json(),
                    "change of ROUGE-L": None,
                    "tokens": float(column["tokens before"].mean()),
                    "4-grams that repeat": float(column["repeated before"].mean()),
                    "prompts": len(found),
                }
            )
        change = column["overlap"] - column["overlap before"]
        rows.append(
            {
                "arm": arm,
                "wins against SFT": bootstrap(wins).to_json(),
                "of each seed": ", ".join(f"{one:.3f}" for one in column["wins"].mean(0)),
                "verdict": against_half(bootstrap(wins, level=1 - 0.05 / len(ARMS))),
                "at equal length": length_controlled(wins, longer).to_json(),
                "ROUGE-L": bootstrap(column["overlap"]).to_json(),
                "change of ROUGE-L": bootstrap(change).to_json(),
                "tokens": float(column["tokens"].mean()),
                "4-grams that repeat": float(column["repeated"].mean()),
                "prompts": len(found),
            }
        )
    return rows


def cost_rows(here: Path) -> list[dict[str, Any]]:
    """Return what each arm cost for one seed: tokens through the network, and memory.

    A token of a pass forward counts once, and so does one of a pass back; a prompt counts once for
    all its answers. RLOO for the same prompts is counted by what it has to do: write as many
    answers inside its loop, score them with the policy, the reference (the policy without its
    adapter) and the ranker, and train on them.
    """
    tokenizer = Tokenizer.from_directory(resolve(MODEL))
    samples = read_rows(here / "samples" / "rows.jsonl")
    prompt = sum(len(prompt_ids(tokenizer, row["prompt"])) for row in samples)
    drawn = sum(len(ids) for row in samples for ids in row["tokens"])
    updated = read_json(here / "direct" / "manifest.json")["facts"]["weights"]

    def trained(path: Path, loss: str) -> int:
        rows = read_preferences(path).rows
        items, _ = preference_items(rows, tokenizer, 2048, LOSSES[loss])
        return EPOCHS * sum(item.group.size for _, item in items)

    def row(name: str, drawn: int, forward: int) -> dict[str, Any]:
        manifest = here / name / "manifest.json"  # of training; RLOO was not run
        peak = read_json(manifest)["peak_memory_bytes"] / 1e9 if manifest.exists() else None
        return {
            "arm": name,
            "written": drawn,
            "ranked": drawn,
            "forward in training": forward,
            "back": forward,
            "models in memory": 1,
            "updated parameters": updated,
            "peak GB of training": peak,
        }

    shared = prompt + drawn
    pairs_file = here / "pairs" / "rows.jsonl"
    dpo = row("dpo", shared, trained(pairs_file, "dpo"))
    dpo["forward in training"] += trained(pairs_file, "dpo") // EPOCHS  # the reference, once
    rloo = row("RLOO, by count", EPOCHS * shared, 2 * EPOCHS * shared)
    rloo |= {"back": EPOCHS * shared, "models in memory": 2}
    best = trained(here / "best" / "rows.jsonl", "best-of-n")
    return [
        row("more SFT", 0, trained(here / "direct.jsonl", "best-of-n")),
        row("best-of-n", shared, best),
        row("direct", 0, trained(here / "direct.jsonl", "slic")),
        row("sample-rank", shared, trained(pairs_file, "slic")),
        dpo,
        rloo,
    ]


def main() -> None:
    """Do what is not done yet, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/slic"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--rate", type=float, default=RATE, help="the learning rate of all arms")
    arguments = parser.parse_args()
    place = arguments.output
    place.mkdir(parents=True, exist_ok=True)
    prepared(place)
    seeds = [place / f"seed-{seed}-{arguments.rate:g}" for seed in arguments.seeds]
    for seed, here in zip(arguments.seeds, seeds, strict=True):
        one_seed(place, here, seed, arguments.rate)
        say(f"seed {seed} is done")
    name = f"slic_{arguments.rate:g}"
    facts = environment()
    common = {
        "machine": {
            "processor": facts["processor"],
            "torch": f"torch {facts['versions']['torch']}",
        },
        "model": "SmolLM2-135M-Instruct, whose own linear weights sit on a 4-bit grid",
        "text": f"SciTLDR, abstracts of at most {MOST} tokens",
    }
    rankers = {name: read_json(right_path(place, name)) for name in ("ranker", "judge")}
    agrees = agreement(seeds)
    write_json(
        RESULTS / f"{name}.json",
        {
            "name": name,
            "title": f"Summaries by five ways of tuning against their SFT model, learning rate "
            f"{arguments.rate:g}, means over {counted(len(seeds))} with 95% intervals over "
            f"prompts, verdicts corrected for five comparisons. Of a human line and the SFT "
            f"model's on prompts new to them, the ranker is right on "
            f"{spelled(rankers['ranker'])} and the judge on {spelled(rankers['judge'])}; of two "
            f"samples, the ranker and ROUGE-L prefer the same in {spelled(agrees.to_json())}",
            **common,
            "rows": result_rows(place, seeds),
            "rankers": rankers,
        },
    )
    print(table(name))
    if arguments.rate != RATE:
        return
    write_json(
        RESULTS / "slic_cost.json",
        {
            "name": "slic_cost",
            "title": "What one seed costs, in tokens that go through the network",
            **common,
            "rows": cost_rows(seeds[-1]),
        },
    )
    print(table("slic_cost"))


def counted(seeds: int) -> str:
    """Count seeds in words that fit."""
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def spelled(found: dict[str, Any]) -> str:
    """Spell a share with its interval."""
    return f"{found['estimate']:.0%} [{found['low']:.0%}, {found['high']:.0%}] (n = {found['n']})"


if __name__ == "__main__":
    main()
