"""How the stage `eval` is reported: with p-values, and what has no figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from strop.recipes import Finished
from strop.recipes.stages.evaluate import EVAL, EvalOptions


def interval(estimate: float) -> dict[str, Any]:
    return {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1, "n": 50}


def finished(tasks: dict[str, Any]) -> Finished:
    options = EvalOptions("ours", tuple(tasks), "theirs")  # type: ignore[arg-type]
    return Finished("eval", "eval", options, Path(), {"tasks": tasks}, {}, True)


def task(figures: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"loss": False, "figures": figures, **more}


def test_each_difference_has_its_p_value_and_the_first_a_word() -> None:
    both = {"model": interval(0.7), "against": interval(0.5), "difference": interval(0.2)}
    figures = {
        "accuracy": both | {"p": 0.004, "p_holm": 0.008, "verdict": "better"},
        "accuracy per letter": both | {"p": 0.03},
        "accuracy per token": {"model": interval(0.7), "against": interval(0.5)},
    }
    section = EVAL.section([finished({"one": task(figures)})])
    assert [row.reading for row in section.headline] == [
        "better, p = 0.008",
        "p = 0.030",
        "of different tokens",
    ]
    assert section.headline[0].change == "+20.0 [+10.0, +30.0] points"
    assert "corrected for all tasks" in section.notes[0]


def test_a_task_without_figures_is_said() -> None:
    tasks = {
        "one": task({"exact match": {"model": interval(0.7)}}),
        "two": task({}, unmeasured="too few of 20 rows were answered; failures: 20 x 500"),
    }
    section = EVAL.section([finished(tasks)])
    assert [row.measure for row in section.headline] == ["one, exact match (eval)"]
    assert section.notes == ()  # nothing is compared
    assert section.caveats[-1] == (
        "two (eval) has no figures: too few of 20 rows were answered; failures: 20 x 500."
    )
