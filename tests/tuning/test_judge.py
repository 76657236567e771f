"""Judging: overlap, lengths, and win rates at equal lengths."""

from __future__ import annotations

import numpy as np
import pytest

from strop.tuning.diagnosis import diagnose, repeated_ngrams, text_failures
from strop.tuning.overlap import longest_common, rouge_l


def slow_common(left: str, right: str) -> int:
    if not left or not right:
        return 0
    if left[0] == right[0]:
        return 1 + slow_common(left[1:], right[1:])
    return max(slow_common(left[1:], right), slow_common(left, right[1:]))


def test_longest_common_subsequence_is_that_of_the_definition() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        left, right = ("".join(random.choice(list("abc"), random.integers(0, 8))) for _ in "12")
        assert longest_common(left, right) == slow_common(left, right)


def test_rouge_l_of_the_paper() -> None:
    """Lin 2004, section 3.1: two thirds of four words in common, and one half."""
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", [reference]) == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", [reference]) == pytest.approx(0.5)
    assert rouge_l("Police killed, the GUNMAN!", [reference]) == 1
    assert rouge_l("", [reference]) == 0
    assert rouge_l("a b", ["c", "a b"]) == 1


def test_repeated_ngrams() -> None:
    assert repeated_ngrams([1, 2, 3]) == 0
    assert repeated_ngrams([1, 2, 3, 4, 5]) == 0
    assert repeated_ngrams([1] * 7) == 0.75


def steps(**figures: float) -> list[dict[str, float]]:
    """Ten steps with the same figures."""
    return [{**figures, "step": step + 1} for step in range(10)]


def evaluations(*losses: float, **figures: tuple[float, float]) -> list[dict[str, float]]:
    """Evaluations with some losses, and figures that go from one value to another."""
    last = max(len(losses) - 1, 1)
    return [
        {"loss": loss, "step": number}
        | {name: a + (b - a) * number / last for name, (a, b) in figures.items()}
        for number, loss in enumerate(losses)
    ]


@pytest.mark.parametrize(
    ("active", "held_out", "said"),
    [
        (0.0, evaluations(2, 1), "dead hinge: 0% of pairs"),
        (1.0, evaluations(2, 1.9, margin=(0, -1)), "nothing learned: 100% of pairs"),
        (1.0, evaluations(2, 1.9, margin=(0, 1)), "no known failure shows"),
        (0.5, evaluations(2, 1, chosen=(-50, -80), margin=(0, -10)), "chosen answers fall"),
        (0.5, evaluations(2, 1, chosen=(-50, -80), margin=(0, 10)), "chosen answers fall"),
        (0.5, evaluations(2, 1, chosen=(-50, -80), margin=(0, 40)), "no known failure shows"),
        (0.5, evaluations(2, 1, 0.9, 1.8), "overfitted: the held-out loss was lowest after step 2"),
        (0.5, evaluations(2, 2.1, 2.2), "nothing learned: the held-out loss was never lower"),
        (0.4, evaluations(2, 1, 0.9), "no known failure shows"),
        (0.4, [], "no known failure shows"),
    ],
)
def test_known_failures_are_named(
    active: float, held_out: list[dict[str, float]], said: str
) -> None:
    for row in held_out:
        row["active"] = active
    assert diagnose(steps(active=active), held_out).startswith(said)


def test_hinges_are_those_of_held_out_prompts_where_there_are_some() -> None:
    assert diagnose(steps(active=0.0), []).startswith("dead hinge")
    opened = evaluations(2, 1, active=(0.5, 0.4))
    assert diagnose(steps(active=0.0), opened) == "no known failure shows"


def moved(before: float, after: float, sure: bool = True) -> dict[str, dict[str, float]]:
    low = (after - before) * (0.5 if sure else -0.5)
    return {
        "baseline": {"estimate": before},
        "candidate": {"estimate": after},
        "difference": {"low": low},
    }


def test_text_failures() -> None:
    still = moved(0.1, 0.1)
    assert text_failures(moved(20, 40), still).startswith("length drift: answers have 40 tokens")
    assert text_failures(moved(20, 40, sure=False), still).startswith("no drift")
    assert text_failures(moved(20, 20), moved(0.1, 0.5)).startswith("loops: 50%")
    assert text_failures(moved(20, 20), moved(0.5, 0.5)).startswith("no drift")
    assert text_failures(moved(20, 10), still).startswith("no drift")
