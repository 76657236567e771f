"""What rating, evaluating and judging keep when an endpoint breaks, and how they go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.lm.endpoint import CUT, Endpoint, Reply, answer

from strop.data import read_rows
from strop.errors import StropError, StropFailure
from strop.evaluation.evaluate import evaluate
from strop.lm import RemoteConfig
from strop.selection.rate import rate
from strop.tuning.judge import judge

COUNT = 12
CONFIG = RemoteConfig(together=2, retries=0, timeout=1.0)
TASK = """\
title: Words
data: {path: data.jsonl}
kind: match
prompt: "{{ prompt }}"
answer: "{{ completion }}"
"""


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rating(folder: Path, model: str) -> tuple[int, dict[str, int]]:
    facts = rate(folder / "data.jsonl", model, folder / "out", remote=CONFIG)
    return facts["rated"], facts["unrated"]


def evaluating(folder: Path, model: str) -> tuple[int, dict[str, int]]:
    (folder / "words.yaml").write_text(TASK)
    facts = evaluate(model, [str(folder / "words.yaml")], folder / "out", remote=CONFIG)
    task = facts["tasks"]["words"]
    return task["figures"]["exact match"]["model"]["n"], task["failed"][0]


def judging(folder: Path, model: str) -> tuple[int, dict[str, int]]:
    places = []
    for name in ("new", "old"):
        rows = [
            {
                "prompt": f"Say {number}!",
                "candidates": [f"{name} {number}"],
                "tokens": [[1, 2]],
                "finish": ["end"],
            }
            for number in range(COUNT)
        ]
        places.append(write(folder / f"{name}.jsonl", rows))
    facts = judge(*places, folder / "out", model=model, remote=CONFIG)["judge"]
    return facts["judged"], facts["not_judged"]


#: What is run, the reply that it understands, where it keeps replies, and requests for a row
Run = Callable[[Path, str], tuple[int, dict[str, int]]]
WORK: dict[str, tuple[Run, str, str, int]] = {
    "rate": (rating, "4", "ratings.jsonl", 1),
    "eval": (evaluating, "4", "samples/words.jsonl", 1),
    "judge": (judging, "C", "replies.jsonl", 2),
}


def late() -> Reply:
    time.sleep(1.5)
    return answer("4")


BROKEN: dict[str, tuple[Callable[[], Reply], str]] = {
    "busy": (lambda: (429, {"error": {"message": "slow down"}}, {}), "429"),
    "refused": (lambda: (400, {"error": {"message": "too long"}}, {}), "400"),
    "failing": (lambda: (500, {"error": {"message": "oops"}}, {}), "500"),
    "late": (late, "timed out"),
    "cut": (lambda: CUT, "onnection"),
    "no JSON": (lambda: (200, "<html>", {}), "not JSON"),
    "a page": (lambda: (200, "<html>", {"Content-Type": "text/html"}), "without an answer"),
    "no choices": (lambda: (200, {"choices": []}, {}), "without an answer"),
}


@pytest.fixture(autouse=True)
def data(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {number}!", "completion": f"{number}"} for number in range(COUNT)]
    write(tmp_path / "data.jsonl", rows)


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("kind", WORK)
def test_a_broken_answer_costs_its_row_and_has_its_reason(
    kind: str, broken: str, tmp_path: Path
) -> None:
    run, text, _, _ = WORK[kind]
    bad, reason = BROKEN[broken]

    def reply(body: dict[str, Any], _: int) -> Reply:
        return bad() if "Say 3!" in body["messages"][-1]["content"] else answer(text)

    with Endpoint(reply) as place:
        answered, failed = run(tmp_path, f"{place.address}#m")
        assert answered == COUNT - 1
        [(why, count)] = failed.items()
        assert reason in why
        assert count == 1
        # Later the same command asks for that row, and for nothing else.
        place.reply, before = lambda *_: answer(text), len(place.asked)
        assert run(tmp_path, f"{place.address}#m") == (COUNT, {})
        again = place.asked[before:]
        assert again
        assert all("Say 3!" in body["messages"][-1]["content"] for body in again)
        asked = len(place.asked)
        assert run(tmp_path, f"{place.address}#m") == (COUNT, {})
        assert len(place.asked) == asked


@pytest.mark.parametrize("broken", ["failing", "cut"])
@pytest.mark.parametrize("kind", WORK)
def test_after_an_endpoint_died_the_same_command_asks_for_the_missing_rows(
    kind: str, broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, text, kept, requests = WORK[kind]

    def reply(body: dict[str, Any], number: int) -> Reply:
        return answer(text) if number <= 3 else BROKEN[broken][0]()

    with Endpoint(reply) as place:
        with pytest.raises(StropFailure, match=r"requests failed, .* again to go on"):
            run(tmp_path, f"{place.address}#m")
        assert "3 answers, 21 tokens read" in capsys.readouterr().err
        rows = read_rows(tmp_path / "out.work" / kept)
        assert len(rows) in (11, 12, 13)  # two are asked together
        assert not (tmp_path / "out").exists()
        place.reply, before = lambda *_: answer(text), len(place.asked)
        assert run(tmp_path, f"{place.address}#m") == (COUNT, {})
    done, again = (
        {json.dumps(one["messages"]) for one in asked}
        for asked in (place.asked[:3], place.asked[before:])
    )
    assert len(again) == COUNT * requests - 3
    assert not done & again


@pytest.mark.parametrize("kind", WORK)
def test_a_wrong_key_ends_the_work_and_a_right_one_goes_on(kind: str, tmp_path: Path) -> None:
    run, text, _, requests = WORK[kind]

    def reply(body: dict[str, Any], number: int) -> Reply:
        return answer(text) if number <= 2 else (401, {"error": {"message": "no"}}, {})

    with Endpoint(reply) as place:
        with pytest.raises(StropError, match="401"):
            run(tmp_path, f"{place.address}#m")
        first = len(place.asked)
        assert first <= 4
        place.reply = lambda *_: answer(text)
        assert run(tmp_path, f"{place.address}#m") == (COUNT, {})
        assert len(place.asked) - first >= COUNT * requests - 2


@pytest.mark.parametrize("kind", WORK)
def test_nobody_there_is_one_line(kind: str, tmp_path: Path) -> None:
    with pytest.raises(StropFailure, match="requests failed, the last with: Connection"):
        WORK[kind][0](tmp_path, "http://127.0.0.1:9/v1#m")


def test_choices_are_no_task_for_endpoints(tmp_path: Path) -> None:
    (tmp_path / "choice.yaml").write_text(
        "title: C\nkind: choice\ndata: {path: data.jsonl}\nprompt: '{{ prompt }}'\n"
        "choices: \"{{ completion }}\\nno\"\nanswer: '{{ completion }}'\n"
    )
    with pytest.raises(StropError, match="given answers, which choice need"):
        evaluate("http://127.0.0.1:9/v1#m", [str(tmp_path / "choice.yaml")], tmp_path / "out")
