"""What the rounds of assisted.py say: a row for each table, and the claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import assisted_prompts
from engine_process import Row
from strop.console import say
from strop.stats import Interval, bootstrap

SPEC_BENCH = {*assisted_prompts.GROUPS, assisted_prompts.CHAT}


def ratio(rows: Sequence[Row], arm: str) -> Interval:
    """Return how many times as fast as plain generation an arm is, over all tokens of some rows.

    Of each prompt the median over rounds counts; the interval is a bootstrap over prompts.
    """
    prompts: dict[Any, list[tuple[float, float]]] = {}
    for row in rows:
        if arm in row["arms"]:
            key = (row["sampling"], row["category"], row["prompt"])
            pair = row["arms"]["plain"]["seconds"], row["arms"][arm]["seconds"]
            prompts.setdefault(key, []).append(pair)
    pairs = np.array([np.median(np.array(one), axis=0) for one in prompts.values()])

    def quotient(sample: np.ndarray) -> np.ndarray:
        both = pairs[sample.astype(int)].sum(axis=-2)
        result: np.ndarray = both[..., 0] / both[..., 1]
        return result

    return bootstrap(np.arange(len(pairs), dtype=float), quotient)


def beside_peer(peers: Sequence[Row], name: str, ours: str) -> Interval:
    """Return the median over prompts of how many times our seconds a token of another takes."""
    times: dict[Any, list[float]] = {}
    for row in peers:
        if row[name] is not None and row[ours] is not None:
            key = row["category"], row["prompt"]
            times.setdefault(key, []).append(row[name] / row[ours])
    values = np.array([np.median(one) for one in times.values()])
    return bootstrap(values, lambda sample: np.median(sample, axis=-1))


def peer_cells(peers: Sequence[Row]) -> Iterator[Row]:
    """Yield a row of the table for each other library."""
    for name in [key for key in peers[0] if key.startswith(("transformers", "llama"))]:
        some = [row for row in peers if row[name] is not None]
        yield {
            "library": name,
            "tokens/s": 1 / float(np.median([row[name] for row in some])),
            "strop auto, times as fast": beside_peer(peers, name, "strop, auto").to_json(),
            "strop with head, times as fast": beside_peer(peers, name, "strop, head").to_json(),
        }


def cells(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield a row of the table for each model, sampling and category."""
    keys = dict.fromkeys((row["model"], row["sampling"], row["category"]) for row in rows)
    for model, sampling, category in keys:
        chosen = [
            row
            for row in rows
            if (row["model"], row["sampling"], row["category"]) == (model, sampling, category)
            and row["arms"]
        ]
        if len({row["prompt"] for row in chosen}) < 2:
            continue  # no interval
        auto = [row["arms"]["auto"] for row in chosen]
        made = sum(row["tokens"] - 1 for row in chosen)
        plain = sum(row["arms"]["plain"]["seconds"] for row in chosen)
        yield {
            "model": model,
            "sampling": sampling,
            "category": category,
            "prompts": len({row["prompt"] for row in chosen}),
            "plain tokens/s": made / plain,
            "auto, times plain": ratio(chosen, "auto").to_json(),
            "tokens per pass": made / sum(one["passes"] for one in auto),
            "guesses right": sum(one["accepted"] for one in auto)
            / max(1, sum(one["guessed"] for one in auto)),
            "other": other_arm(chosen),
        }


def other_arm(rows: Sequence[Row]) -> str | None:
    """Return the speed of the arm that only this model has."""
    for arm in ("head", "nested"):
        if arm in rows[0]["arms"]:
            found = ratio(rows, arm)
            return f"{arm} {found.estimate:.3g} [{found.low:.3g}, {found.high:.3g}]"
    return None


def claims(rows: Sequence[Row], peers: Sequence[Row]) -> dict[str, Any]:
    """Return the keys of the RESULT line."""
    eight = [row for row in rows if row["model"] == "8-bit" and row["sampling"] == "greedy"]

    def of(category: str) -> float:
        return ratio([row for row in eight if row["category"] == category], "auto").estimate

    def beside(name: str) -> float:
        """How many times as fast as the faster assisted way of a library ours is, without a head.

        What it does without assistance is in the table.
        """
        ways = [key for key in peers[0] if key.startswith(name) and not key.endswith("plain")]
        return min(beside_peer(peers, way, "strop, auto").estimate for way in ways)

    plain = [row["arms"] for row in eight if row["arms"]]
    token = sum(row["plain"]["seconds"] for row in plain) / sum(
        row["plain"]["passes"] for row in plain
    )
    planning = sum(row["auto"]["planning"] for row in plain) / sum(
        row["auto"]["passes"] for row in plain
    )
    worst = min(cells(rows), key=lambda cell: cell["auto, times plain"]["estimate"])
    say(f"worst: {worst['model']}, {worst['sampling']}, {worst['category']}")
    found_worst = worst["auto, times plain"]["estimate"]
    keys = {(row["sampling"], row["category"]) for row in rows if "head" in row["arms"]}
    for kind, category in sorted(keys):
        some = [row for row in rows if (row["sampling"], row["category"]) == (kind, category)]
        found_worst = min(found_worst, ratio(some, "head").estimate)
    found = {
        "mismatches": sum(row["differ"] for row in rows),
        "worst_category": found_worst,
        "summarization8": of("summarization"),
        "rag8": of("rag"),
        "editing8": min(map(of, ("editing", "extraction", "json"))),
        "vs_transformers": beside("transformers"),
        "vs_llamacpp": beside("llama.cpp"),
        "planner_overhead": planning / token,
    }
    spec = [row for row in eight if row["category"] in SPEC_BENCH and row["arms"]]
    found["overall8_draft"] = ratio(spec, "head").estimate
    return found
