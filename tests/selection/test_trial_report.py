"""Verdicts of trials, from runs that are simulated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from strop.selection.trial_plan import CHOSEN, MATCHED, Job
from strop.selection.trial_report import Values, compared, learned
from strop.stats.interval import SURE

NAMES = [f"selector {number}" for number in range(20)]
ROWS, PARTS, RANDOM_RUNS = 60, 3, 5
STUDIES = 400

Random = np.random.Generator
Runs = list[tuple[Job, Values]]


def study(rng: Random, gains: dict[str, float]) -> Runs:
    """Draw the losses of all runs; those on what a selector chose are lower by its gain."""
    rows, tokens = rng.gamma(4.0, 0.5, ROWS), rng.integers(20, 200, ROWS).astype(float)

    def run(selector: str, which: str, seed: int, gain: float) -> tuple[Job, Values]:
        losses = rows - gain + rng.normal(0, 0.02) + rng.normal(0, 0.05, ROWS)
        return Job(selector, which, seed, ()), np.stack([losses * tokens, tokens], axis=1)

    found = [run("random", CHOSEN, seed, 0.0) for seed in range(RANDOM_RUNS)]
    for name, gain in gains.items():
        for seed in range(PARTS):
            found += [run(name, CHOSEN, seed, gain), run(name, MATCHED, seed, 0.0)]
    return found


def against_random(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [one["against"]["random"] for one in found["selectors"].values()]


def excludes_zero(one: dict[str, Any]) -> bool:
    return not one["difference"]["low"] <= 0.0 <= one["difference"]["high"]


def test_of_twenty_selectors_that_are_random_in_disguise_none_is_called_better() -> None:
    """In at most 5 of 100 studies there is a verdict, and 400 say so to within 2."""
    rng = np.random.default_rng(0)
    none = dict.fromkeys(NAMES, 0.0)
    told = uncorrected = 0
    for _ in range(STUDIES):
        found = against_random(compared(study(rng, none), none, lower_is_better=True))
        told += any(one["verdict"] != "cannot tell" for one in found)
        uncorrected += any(excludes_zero(one) for one in found)
    assert told / STUDIES <= 0.07
    assert uncorrected / STUDIES > 0.25  # the negative control: each by its own interval


def test_one_that_helps_is_told_among_others_that_do_not() -> None:
    gains = dict.fromkeys(NAMES, 0.0) | {"selector 7": 0.3, "selector 9": -0.3}
    runs = study(np.random.default_rng(1), gains)
    for lower, words in ((True, ("better", "worse")), (False, ("worse", "better"))):
        found = compared(runs, gains, lower)["selectors"]
        for name, row in found.items():
            for one in row["against"].values():
                word = {"selector 7": words[0], "selector 9": words[1]}.get(name, "cannot tell")
                assert one["verdict"] == word
                assert one["p"] <= one["p_holm"] <= 1.0
                assert (one["p_holm"] < SURE) == (word != "cannot tell")


def test_rows_without_an_answer_in_one_of_the_runs_do_not_count() -> None:
    gains = dict.fromkeys(NAMES[:2], 0.1)
    runs = study(np.random.default_rng(2), gains)
    whole = compared(runs, gains, lower_is_better=True)
    for run, row in ((0, 3), (4, 3), (6, 11)):
        runs[run][1][row, 0] = np.nan
    found = compared(runs, gains, lower_is_better=True)
    kept = [row for row in range(ROWS) if row not in (3, 11)]
    without = [(job, values[kept]) for job, values in runs]
    assert found == compared(without, gains, lower_is_better=True)
    assert (whole["n"], found["n"]) == (ROWS, ROWS - 2)
    assert found["random"]["mean"] != pytest.approx(whole["random"]["mean"], abs=1e-6)


@pytest.mark.parametrize("gain", [0.0, 0.3])
def test_what_training_on_random_rows_gives(gain: float) -> None:
    """The model before has no luck of a run, so its interval holds the truth too often."""
    rng = np.random.default_rng(3)
    held = shown = 0
    for _ in range(STUDIES):
        runs = study(rng, dict.fromkeys(NAMES, -gain))
        others = runs[:RANDOM_RUNS]
        before = np.mean([values for _, values in runs[RANDOM_RUNS::2]], axis=0)
        before[3, 0] = np.nan
        found = learned(others, before)
        assert found["difference"]["n"] == ROWS - 1
        held += found["difference"]["low"] <= -gain <= found["difference"]["high"]
        shown += excludes_zero(found) and found["p"] < SURE
    assert held / STUDIES >= 0.97
    assert shown / STUDIES <= 0.03 if gain == 0.0 else shown == STUDIES
