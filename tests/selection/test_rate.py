"""Ratings: what is kept, what is asked again, and what has no grade."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from strop.data import Prompt, read_rows
from strop.decoding import Sampling
from strop.errors import StropError, StropFailure
from strop.lm import Answer, Failed
from strop.models import pack
from strop.selection import rate as rating
from strop.selection.rate import rate, spelled

ROWS = [{"instruction": f"Say {number}", "output": f"{number}"} for number in range(12)]


class Rater:
    """Replies by what the row says; breaks off when told to."""

    name, identity, chat = "rater", "id", True

    def __init__(self, replies: dict[int, Any], dies_after: int = 10**9) -> None:
        self.replies, self.dies_after = replies, dies_after
        self.asked: list[int] = []

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sequence[Sampling], options: Sequence[str] = ()
    ) -> Iterator[tuple[int, Answer | Failed]]:
        for number, prompt in enumerate(prompts):
            if len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            which = int(prompt[-1]["content"].split("Say ")[1].split()[0])
            self.asked.append(which)
            reply = self.replies.get(which, "4")
            if isinstance(reply, Failed):
                yield number, reply
            else:
                logps = [math.log(0.5) if grade in ("3", "4") else None for grade in options]
                cut = reply.endswith("…")
                finish = "length" if cut else "end"
                yield number, Answer(reply.removesuffix("…"), finish, 100, 2, tuple(logps))

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[Any]:
        raise NotImplementedError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "broken\n")
    return path


def using(monkeypatch: pytest.MonkeyPatch, rater: Rater) -> Rater:
    monkeypatch.setattr(rating, "open_model", lambda reference, remote=None: rater)
    return rater


def test_every_row_has_its_grade_or_the_reason(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, Rater({1: "nonsense", 2: "9", 3: "2.5", 4: Failed("500: no")}))
    facts = rate(data, "rater", tmp_path / "out")
    rows = {row["instruction"]: row for row in read_rows(tmp_path / "out" / "rows.jsonl")}
    assert len(rows) == 12
    assert rows["Say 0"]["scores"] == {"accuracy": 4.0, "accuracy-expected": 3.5}
    assert rows["Say 1"]["scores"] == rows["Say 2"]["scores"] == {"accuracy-expected": 3.5}
    assert rows["Say 3"]["scores"]["accuracy"] == 2.5
    assert rows["Say 4"]["scores"] == {}
    assert facts["rated"] == 9
    assert facts["unrated"] == {"no number": 1, "out of range": 1, "failed: 500: no": 1}
    assert facts["grades"] == {"2.5": 1, "4": 8}
    assert facts["rejected"] == 1
    ratings = read_rows(tmp_path / "out" / "ratings.jsonl")
    assert [row["reply"] for row in ratings[:4]] == ["4", "nonsense", "9", "2.5"]
    assert all(len(row["prompt_hash"]) == 64 and row["rater"] == "id" for row in ratings)
    assert len({row["prompt_hash"] for row in ratings}) == 12
    assert "9 of 12 rows rated by accuracy; unrated: 1 no number" in spelled(facts)


def test_a_number_that_was_cut_off_is_no_grade(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, Rater({0: "Grade: 4…", 1: "Grade: 4.…", 2: "4, because…", 3: "4"}))
    facts = rate(data, "rater", tmp_path / "out", limit=4)
    assert facts["unrated"] == {"cut off in a number": 2}
    assert facts["rated"] == 2


def test_who_is_interrupted_asks_for_no_row_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = using(monkeypatch, Rater({}))
    wanted = rate(data, "rater", tmp_path / "whole")
    first = using(monkeypatch, Rater({}, dies_after=5))
    with pytest.raises(KeyboardInterrupt):
        rate(data, "rater", tmp_path / "out")
    assert len(read_rows(tmp_path / "out.work" / "ratings.jsonl")) == 5
    second = using(monkeypatch, Rater({}))
    assert rate(data, "rater", tmp_path / "out") == wanted
    assert sorted(first.asked + second.asked) == sorted(whole.asked) == list(range(12))
    names = ("rows.jsonl", "ratings.jsonl")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rows_whose_requests_failed_are_asked_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, Rater({0: Failed("429: busy")}, dies_after=6))
    with pytest.raises(KeyboardInterrupt):
        rate(data, "rater", tmp_path / "out")
    second = using(monkeypatch, Rater({}))
    assert rate(data, "rater", tmp_path / "out")["rated"] == 12
    assert second.asked == [0, 6, 7, 8, 9, 10, 11]


def test_a_rater_that_answers_only_nonsense(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, Rater(dict.fromkeys(range(12), "what?")))
    facts = rate(data, "rater", tmp_path / "out")  # its probabilities are still something
    assert (facts["rated"], facts["expected"]) == (0, 12)
    using(monkeypatch, Rater(dict.fromkeys(range(12), Failed("500"))))
    with pytest.raises(StropFailure, match="rater rated nothing: 12 failed: 500"):
        rate(data, "rater", tmp_path / "other")


def test_scores_of_before_stay_and_the_first_rows_can_be_rated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, Rater({}))
    rate(data, "rater", tmp_path / "one", limit=3)
    rate(tmp_path / "one", "rater", tmp_path / "two", "helpfulness")
    rows = read_rows(tmp_path / "two" / "rows.jsonl")
    assert len(rows) == 3
    assert rows[0]["scores"].keys() == {
        "accuracy",
        "accuracy-expected",
        "helpfulness",
        "helpfulness-expected",
    }


def test_another_rating_by_the_same_name_leaves_nothing_of_the_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, Rater({}))
    rate(data, "rater", tmp_path / "one")
    rate(tmp_path / "one", "rater", tmp_path / "two", "helpfulness")
    using(monkeypatch, Rater({0: "5", 1: "nonsense", 2: Failed("500: no")}))
    rate(tmp_path / "two", "rater", tmp_path / "three")
    rows = read_rows(tmp_path / "three" / "rows.jsonl")
    other = {"helpfulness": 4.0, "helpfulness-expected": 3.5}
    assert rows[0]["scores"] == {"accuracy": 5.0, "accuracy-expected": 3.5, **other}
    assert rows[1]["scores"] == {"accuracy-expected": 3.5, **other}
    assert rows[2]["scores"] == other


def test_rows_that_are_left_out_are_counted_of_the_whole_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data.write_text(data.read_text() + json.dumps(ROWS[3]) + "\n")
    using(monkeypatch, Rater({}))
    facts = rate(data, "rater", tmp_path / "out", limit=5)
    assert (facts["rows"], facts["rejected"], facts["repeated"]) == (5, 1, 1)
    assert "1 of 14 rows left out: 1 not JSON" in capsys.readouterr().err
    assert "left out: 1 exact repeats of other rows" in spelled(facts)


def test_a_packed_model_rates(data: Path, tmp_path: Path, tiny_model: Path) -> None:
    pack(str(tiny_model), "bfp8", tmp_path / "packed")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(StropError, match="no row"):
        rate(tmp_path / "empty.jsonl", str(tmp_path / "packed"), tmp_path / "out")
    (tmp_path / "short.yaml").write_text("prompt: '{{ prompt }}: {{ completion }}?'")
    rubric = str(tmp_path / "short.yaml")
    facts = rate(data, str(tmp_path / "packed"), tmp_path / "out", rubric)
    assert facts["expected"] == 12
    assert 0 < facts["mass"] < 1
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    assert all(0 <= row["scores"]["short-expected"] <= 5 for row in rows)
