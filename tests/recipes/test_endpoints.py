"""Stages that ask an endpoint: what makes them run again, and what does not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.lm.endpoint import Endpoint, Reply, answer

from strop.errors import StropError
from strop.recipes import STAGES, Finished, load_recipe, run_recipe

RECIPE = """\
name: asked
stages:
  - rate:
      data: rows.jsonl
      rater: {model}
      rubric: kind.yaml
      endpoint: {{together: 2, per_minute: 60000, price_in: 1.5}}
  - eval:
      model: {model}
      tasks: [sums.yaml, words.yaml]
      endpoint: {{retries: 0}}
  - judge:
      candidate: new.jsonl
      baseline: old.jsonl
      judge: {model}
"""
RUBRIC = "prompt: 'How kind? {{ prompt }} {{ completion }}'\n"
TASK = """\
title: Sums
data: {path: DATA}
kind: match
prompt: "{{ prompt }}"
answer: "{{ completion }}"
"""


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def answers(name: str) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{n}?", "candidates": [f"{name} {n}"], "tokens": [[1]], "finish": ["end"]}
        for n in range(8)
    ]


def reply(body: dict[str, Any], _: int) -> Reply:
    """Rate 4, answer 4, and prefer what is new."""
    text = body["messages"][-1]["content"]
    if "Answer A:" not in text:
        return answer("4")
    return answer("A" if text.index("new") < text.index("old") else "B")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n} + 1?", "completion": f"{n + 1}"} for n in range(8)]
    for name in ("rows", "sums", "words"):
        write(f"{name}.jsonl", rows)
        Path(f"{name}.yaml").write_text(TASK.replace("DATA", f"{name}.jsonl"))
    Path("kind.yaml").write_text(RUBRIC)
    write("new.jsonl", answers("new"))
    write("old.jsonl", answers("old"))
    with Endpoint(reply) as endpoint:
        yield endpoint


def run(place: Endpoint, *settings: str) -> list[Finished]:
    Path("asked.yaml").write_text(RECIPE.format(model=f"{place.address}#m"))
    return run_recipe(load_recipe(Path("asked.yaml"), STAGES, settings), Path("run"), STAGES)


def executed(place: Endpoint, *settings: str) -> list[str]:
    return [stage.name for stage in run(place, *settings) if stage.executed]


def test_an_endpoint_is_asked_once_and_reported(place: Endpoint) -> None:
    rate, evaluated, judge = run(place)
    assert rate.metrics["rated"] == 8
    assert evaluated.metrics["tasks"]["sums"]["figures"]["exact match"]["model"]["n"] == 8
    together = judge.metrics["judge"]["together"]
    assert (together["wins"], together["verdict"]) == (8, "better")
    assert len(place.asked) == 8 + 2 * 8 + 2 * 8
    report = Path("run/report.md").read_text()
    assert "| Wins, by the judge | 50% | 100 [68, 100]% |  | 8 | better |" in report
    assert "| Replies of the judge that change with the order |  | 0 [0, 32]% |  | 8 |" in report
    assert executed(place) == []
    assert len(place.asked) == 40
    assert load_recipe(Path("run/recipe.yaml"), STAGES) == load_recipe(Path("asked.yaml"), STAGES)


@pytest.mark.parametrize(
    ("path", "old", "new", "again"),
    [
        ("kind.yaml", "How kind", "How very kind", ["rate"]),
        ("sums.yaml", "Sums", "More sums", ["eval"]),
        ("words.jsonl", "0 + 1", "1 + 0", ["eval"]),
        ("rows.jsonl", "0 + 1", "1 + 0", ["rate"]),
        ("rows.yaml", "Sums", "More sums", []),  # a task that the recipe does not name
        ("kind.yaml", "prompt: ", "prompt:  ", []),  # nothing that a rater would see
    ],
)
def test_a_file_that_an_option_names_runs_its_stage_again(
    place: Endpoint, path: str, old: str, new: str, again: list[str]
) -> None:
    run(place)
    changed = Path(path).read_text().replace(old, new)
    assert changed != Path(path).read_text()
    Path(path).write_text(changed)
    assert executed(place) == again
    assert executed(place) == []


def test_another_name_of_a_rubric_names_other_scores(place: Endpoint) -> None:
    run(place)
    Path("warm.yaml").write_text(RUBRIC)
    assert executed(place, "rate.rubric=warm.yaml") == ["rate"]
    [row, *_] = Path("run/stages/01-rate/rows/rows.jsonl").read_text().splitlines()
    assert json.loads(row)["scores"] == {"warm": 4.0}


def test_how_an_endpoint_is_used_changes_no_result(place: Endpoint) -> None:
    run(place)
    slower = ["rate.endpoint={together: 1}", "eval.endpoint={price_out: 3}"]
    assert executed(place, *slower) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rate.rubric=knd.yaml", "rubric: cannot read knd.yaml"),
        ("rate.rubric=acuracy", r"rubric: unknown rubric .*did you mean 'accuracy'"),
        ("eval.tasks=[boolqq]", "unknown task .*did you mean 'boolq'"),
        ("rate.endpoint={together: 0}", "endpoint: endpoint: requests at once"),
        ("rate.endpoint={together: 1.5}", "together: must be a whole number"),
        ("rate.endpoint={per_minut: 1}", "unknown option of endpoint 'per_minut': did you mean"),
        ("rate.endpoint=3", "endpoint: must be a mapping"),
    ],
)
def test_mistakes_are_found_before_anything_is_asked(
    place: Endpoint, setting: str, message: str
) -> None:
    with pytest.raises(StropError, match=message):
        run(place, setting)
    assert place.asked == []


def test_a_file_of_rows_that_is_missing_is_found_before_anything_is_asked(place: Endpoint) -> None:
    Path("words.jsonl").unlink()
    with pytest.raises(StropError, match=r"stage 'eval': tasks: cannot read .*words\.jsonl"):
        run(place)
    assert place.asked == []
