"""Tasks of the kind code: which programs pass, and how often of several."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.evaluation.written_models import Written, using, write

from strop.data import read_rows
from strop.errors import StropError
from strop.evaluation.code import judged, passes
from strop.evaluation.evaluate import evaluate, spelled
from strop.evaluation.samples import sampling
from strop.evaluation.sandbox import isolation
from strop.evaluation.tasks import Task, open_task
from strop.lm import Failed

CODE = """\
title: Code
data: {path: code.jsonl}
kind: code
prompt: '{{ prompt }}'
tests: |
  {{ prompt }}{{ completion }}
  assert double(4) == 8
"""
RIGHT, WRONG = "    return 2 * x", "    return x"
PROMPTS = [f"# {n}\ndef double(x):\n" for n in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code.yaml").write_text(CODE)
    (tmp_path / "several.yaml").write_text(CODE + "samples: 4\ntemperature: 0.8\n")
    write(tmp_path / "code.jsonl", [{"prompt": one} for one in PROMPTS])
    return tmp_path


def task(samples: int) -> Task:
    return Task("t", "T", {}, "code", "", samples=samples, temperature=0.5)


def test_one_answer_passes_or_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = dict(zip(PROMPTS, [RIGHT, WRONG, RIGHT, "    (", RIGHT, Failed("500")], strict=True))
    model = Written("m", answers)
    using(monkeypatch, model)
    facts = evaluate("m", [str(folder / "code.yaml")], folder / "out")
    found = facts["tasks"]["code"]
    assert found["figures"].keys() == {"passed"}
    assert found["figures"]["passed"]["model"]["estimate"] == 3 / 5
    assert found["failed"] == [{"500": 1}]
    assert found["isolation"] == isolation()
    assert f"programs ran with {isolation()}" in spelled(facts)
    samples = read_rows(folder / "out" / "samples" / "code.jsonl")
    outcomes = [one["answers"][0]["outcome"] for one in samples[:5]]
    assert outcomes == ["passed", "wrong", "passed", "error: SyntaxError", "passed"]
    assert all(one.temperature == 0 for one in model.sampling)


def test_several_answers_give_pass_at_k(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = open_task(str(folder / "several.yaml"))
    seeds = [[sampling(asked, {"prompt": one}, n).seed for n in range(4)] for one in PROMPTS]
    assert len({seed for some in seeds for seed in some}) == 24
    # Of the answers to prompt n, the first n pass.
    right = {seed for n, some in enumerate(seeds) for seed in some[:n]}
    answers = {one: lambda seed: RIGHT if seed in right else WRONG for one in PROMPTS}
    model = Written("m", answers)
    using(monkeypatch, model)
    facts = evaluate("m", [str(folder / "several.yaml")], folder / "out")
    figures = facts["tasks"]["several"]["figures"]
    assert figures.keys() == {"pass@1", "pass@4"}
    assert figures["pass@1"]["model"]["estimate"] == pytest.approx((0 + 1 + 2 + 3 + 4 + 4) / 24)
    assert figures["pass@4"]["model"]["estimate"] == 5 / 6
    assert len(model.asked) == 24
    assert {one.temperature for one in model.sampling} == {0.8}
    sample = read_rows(folder / "out" / "samples" / "several.jsonl")[2]
    assert [one["outcome"] for one in sample["answers"]] == ["passed"] * 2 + ["wrong"] * 2


def test_who_is_interrupted_gets_the_same_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {one: lambda seed: RIGHT if seed % 3 else WRONG for one in PROMPTS}
    name = str(folder / "several.yaml")
    using(monkeypatch, Written("m", answers))
    wanted = evaluate("m", [name], folder / "whole")
    using(monkeypatch, Written("m", answers, dies_after=15))
    with pytest.raises(KeyboardInterrupt):
        evaluate("m", [name], folder / "out")
    second = Written("m", answers)
    using(monkeypatch, second)
    assert evaluate("m", [name], folder / "out") == wanted
    assert len(second.asked) < 24  # the control: something was kept
    samples = [folder / place / "samples" / "several.jsonl" for place in ("out", "whole")]
    assert samples[0].read_bytes() == samples[1].read_bytes()


def test_a_row_of_which_one_answer_failed_has_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = open_task(str(folder / "several.yaml"))
    bad = sampling(asked, {"prompt": PROMPTS[5]}, 2).seed
    answers = {one: lambda seed: Failed("500") if seed == bad else RIGHT for one in PROMPTS}
    using(monkeypatch, Written("m", answers))
    found = evaluate("m", [str(folder / "several.yaml")], folder / "out")["tasks"]["several"]
    assert found["failed"] == [{"500": 1}]
    assert found["figures"]["pass@1"]["model"]["n"] == 5


def test_the_draws_of_pass_at_k() -> None:
    assert passes(Task("t", "T", {}, "code", "")) == {"passed": 1}
    assert passes(task(5)) == {"pass@1": 1, "pass@5": 5}
    assert passes(task(10)) == {"pass@1": 1, "pass@10": 10}
    assert passes(task(200)) == {"pass@1": 1, "pass@10": 10, "pass@100": 100, "pass@200": 200}
    answers = [{"outcome": "passed"}] * 3 + [{"outcome": "wrong"}] * 17
    found = judged(task(20), answers)
    assert found["pass@1"] == pytest.approx(3 / 20)
    # One minus the share of draws of 10 without any of the 3: 10/20 * 9/19 * 8/18.
    assert found["pass@10"] == pytest.approx(1 - 10 * 9 * 8 / (20 * 19 * 18))


def test_rows_without_tests_are_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "none.yaml").write_text(CODE.replace("tests: |", "max_tokens: 9\nchoices: |"))
    using(monkeypatch, Written("m", {}))
    with pytest.raises(StropError, match="none: no row can be asked; 6 of 6: no t"):
        evaluate("m", [str(folder / "none.yaml")], folder / "out")
