"""What figures show: with which words, and on which rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from strop.evaluation.figures import decide, figures, standard_error, unmeasured

Samples = list[dict[str, Any]]


def samples(right: int, of: int = 20) -> Samples:
    """Samples of which the first so many are right, by two figures."""
    return [{"first": float(n < right), "second": float(n < right)} for n in range(of)]


def task(ours: int, theirs: int, loss: bool = False) -> dict[str, Any]:
    both = [samples(ours), samples(theirs)]
    return {"loss": loss, "figures": figures(("first", "second"), both)}


def test_a_word_needs_the_corrected_p() -> None:
    alone = {"one": task(20, 14)}
    decide(alone)
    assert alone["one"]["figures"]["first"]["p"] == pytest.approx(2 / 2**6)
    assert alone["one"]["figures"]["first"]["verdict"] == "better"
    both = {"one": task(20, 14), "two": task(20, 14)}
    decide(both)
    for one in both.values():
        first = one["figures"]["first"]
        assert first["difference"]["low"] > 0  # its interval alone would say better
        assert first["p_holm"] == pytest.approx(4 / 2**6)
        assert first["verdict"] == "cannot tell"


def test_a_word_needs_the_interval_too() -> None:
    # Of 5 rows all agree: too few for a word, whatever the p-value.
    found = {"one": {"loss": False, "figures": figures(("first",), [samples(5, 5), samples(0, 5)])}}
    found["one"]["figures"]["first"]["p"] = 0.001
    decide(found)
    assert found["one"]["figures"]["first"]["verdict"] == "cannot tell"


def test_only_the_first_figure_has_a_word() -> None:
    found = {"one": task(20, 5), "lost": task(20, 5, loss=True), "failed": {"figures": {}}}
    decide(found)
    for name, word in (("one", "better"), ("lost", "worse")):
        first, second = found[name]["figures"].values()
        assert first["verdict"] == word
        assert {"difference", "p"} <= second.keys()
        assert not {"verdict", "p_holm"} & second.keys()


def test_words_among_many_equal_tasks_are_rare() -> None:
    """In studies of ten tasks with equal models few have a word; by intervals alone many would."""
    rng = np.random.default_rng(0)
    words = intervals = 0
    for _ in range(100):
        found = {}
        for name in range(10):
            both = [[{"first": one} for one in rng.integers(0, 2, 60).astype(float)] for _ in "ab"]
            found[str(name)] = {"loss": False, "figures": figures(("first",), both)}
        decide(found)
        first = [one["figures"]["first"] for one in found.values()]
        words += any(one["verdict"] != "cannot tell" for one in first)
        ends = [(one["difference"]["low"], one["difference"]["high"]) for one in first]
        intervals += any(low > 0 or high < 0 for low, high in ends)
    assert words <= 8  # five are expected
    assert intervals > 25


def test_rows_that_one_model_did_not_answer_do_not_count() -> None:
    ours, theirs = samples(3, 4), samples(1, 4)
    theirs[0] = {"failed": "500"}
    found = figures(("first",), [ours, theirs])["first"]
    assert found["model"]["n"] == 3
    assert found["model"]["estimate"] == pytest.approx(2 / 3)
    assert found["against"]["estimate"] == 0


def test_too_few_rows_have_no_figures_and_a_reason() -> None:
    assert figures(("first",), [[*samples(1, 1), {"failed": "500"}]]) == {}
    said = unmeasured(9, [{"a": 1, "b": 5, "c": 2}, {"c": 4, "d": 2}])
    assert said == "too few of 9 rows were answered; failures: 6 x c, 5 x b, 2 x d"
    assert unmeasured(1, [{}]).endswith("failures: none")


def test_standard_errors_are_those_of_many_studies() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(20, 200, (4000, 50)).astype(float)
    losses = np.stack([counts * rng.normal(2.5, 0.4, counts.shape), counts], axis=2)
    for studies, estimates in (
        ((rng.random((4000, 50)) < 0.3).astype(float), lambda rows: rows.mean(axis=1)),
        (rng.gamma(2.0, size=(4000, 50)), lambda rows: rows.mean(axis=1)),
        (losses, lambda rows: rows[..., 0].sum(axis=1) / rows[..., 1].sum(axis=1)),
    ):
        said = np.mean([standard_error(one) for one in studies])
        assert said == pytest.approx(estimates(studies).std(), rel=0.05)


def test_of_a_proportion_it_is_the_one_of_the_textbook() -> None:
    found = figures(("first",), [samples(6), samples(20)])["first"]
    assert found["stderr"] == [pytest.approx(np.sqrt(0.3 * 0.7 / 19)), 0.0]
