"""Two models answer prompts, and a third says which is better."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from strop.data import Prompt, read_rows
from strop.decoding import Sampling
from strop.errors import StropError
from strop.lm import Answer
from strop.models import pack
from strop.tuning import judge as judging
from strop.tuning.judge import judge, judge_models

pytestmark = pytest.mark.usefixtures("one_thread", "own_cache")


class Longer:
    """A judge that prefers the longer answer."""

    name, identity, chat = "longer", "longer", True

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sequence[Sampling], options: Sequence[str] = ()
    ) -> Iterator[tuple[int, Answer]]:
        for number, prompt in enumerate(prompts):
            text = prompt[-1]["content"]
            first, second = text.partition("Answer A:\n")[2].split("\n\nAnswer B:\n", 1)
            second = second.rpartition("\n\nThe better")[0]
            letter = "C" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
            yield number, Answer(letter, "end", 1, 1)

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[Any]:
        raise NotImplementedError


def test_models_answer_sets_of_prompts_and_are_judged(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(judging, "open_model", lambda name, remote: Longer())
    monkeypatch.setattr(judging, "model_identity", lambda name: name)
    for format in ("bfp8", "bfp4"):
        pack(str(tiny_model), format, tmp_path / format)
    for name in ("one", "two"):
        rows = [{"prompt": f"Say {name} {number}"} for number in range(8)]
        if name == "two":
            rows.append({"prompt": "Say one 3"})
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    models = (str(tmp_path / "bfp8"), str(tmp_path / "bfp4"))
    facts = judge_models(models, sets, tmp_path / "out", max_tokens=9, model="longer")
    found = facts["judge"]
    assert list(found["sets"]) == ["one", "two"]
    assert found["conflicts"]["estimate"] == 0
    assert capsys.readouterr().err.count("count where they come first: 1 of 17") == 1
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    assert len(rows) == 16
    lengths = [tuple(map(len, row["answers"])) for row in rows]
    together = found["together"]
    assert together["wins"] == sum(a > b for a, b in lengths)
    assert together["losses"] == sum(a < b for a, b in lengths)
    assert together["wins"] + together["losses"] > 0
    replies = read_rows(tmp_path / "out" / "replies.jsonl")
    assert len(replies) == 2 * sum(row["answers"][0] != row["answers"][1] for row in rows)
    again = judge_models(models, sets, tmp_path / "out", max_tokens=9, model="longer")
    assert again == facts
    answers = tmp_path / "out.answers"
    with pytest.raises(StropError, match="nothing to judge by"):
        judge(answers / "candidate", answers / "baseline", tmp_path / "other")
    with pytest.raises(StropError, match="which prompts"):
        judge_models(models, [], tmp_path / "other", model="longer")
    with pytest.raises(StropError, match="one name"):
        judge_models(models, [sets[0], sets[0]], tmp_path / "other", model="longer")


def test_what_judges_is_looked_at_before_answers_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("answers are written")

    monkeypatch.setattr(judging, "sample", never)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    for how, said in (
        ({"ranker": tmp_path / "none"}, "none"),
        ({"model": "no-such-model"}, "no-such-model"),
        ({"model": "http://host/v1"}, "which model"),
        ({}, "nothing to judge by"),
    ):
        with pytest.raises(StropError, match=said):
            judge_models(("a", "b"), [prompts], tmp_path / "out", **how)
    with pytest.raises(StropError, match="between 0 and 1"):
        judge(tmp_path, tmp_path, tmp_path / "out", most_conflicts=1.5)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis").touch()
    with pytest.raises(StropError, match="was not made by this command"):
        judge_models(("a", "b"), [prompts], tmp_path / "out", model="http://host/v1#m")


GOOD = {"prompt": "a", "candidates": ["b"], "tokens": [[1]], "finish": ["end"]}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("prompt", None, "prompt is neither text nor messages"),
        ("prompt", ["a"], "a message needs role and content"),
        ("candidates", [], "of the same length"),
        ("candidates", None, "of the same length"),
        ("candidates", [3], "are not texts"),
        ("tokens", None, "of the same length"),
        ("tokens", [None], "not lists of whole numbers"),
        ("finish", [], "of the same length"),
        ("finish", [None], "are not texts"),
        ("reference", None, "reference is not text"),
    ],
)
def test_rows_that_no_sampling_wrote_are_named(
    tmp_path: Path, column: str, value: Any, said: str
) -> None:
    bad = GOOD | {"prompt": "c", column: value}
    for name, rows in (("good", [GOOD, GOOD]), ("bad", [GOOD, bad])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(StropError, match=rf"bad\.jsonl:2: .*{said}"):
        judge(tmp_path / "good.jsonl", tmp_path / "bad.jsonl", tmp_path / "out")


def test_prompts_may_have_other_columns(tiny_model: Path, tmp_path: Path) -> None:
    pack(str(tiny_model), "bfp8", tmp_path / "tiny")
    models = (str(tmp_path / "tiny"), str(tmp_path / "tiny"))
    rows = [{"prompt": f"Say {n}", "completion": "+", "scores": {"length": 1}} for n in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rated").mkdir()
    (tmp_path / "rated" / "rows.jsonl").write_text(text)
    (tmp_path / "raw.jsonl").write_text(text)
    facts = judge_models(models, [tmp_path / "rated"], tmp_path / "out", max_tokens=4)
    assert facts["prompts"] == 3
    with pytest.raises(StropError, match="--columns"):
        judge_models(models, [tmp_path / "raw.jsonl"], tmp_path / "other", max_tokens=4)
    named = {"prompt": "prompt"}
    again = judge_models(
        models, [tmp_path / "raw.jsonl"], tmp_path / "other", max_tokens=4, columns=named
    )
    assert again["overlap"] == facts["overlap"]
