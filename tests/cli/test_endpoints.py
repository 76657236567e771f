"""The options of endpoints, which rate, eval and judge share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.lm.endpoint import Endpoint, answer
from typer.testing import CliRunner

from strop.cli.main import app
from strop.errors import StropError

TASK = """\
title: Words
data: {path: data.jsonl}
kind: match
prompt: "{{ prompt }}"
answer: "{{ completion }}"
"""
COMMANDS = {
    "rate": ["data.jsonl", "--rater", "MODEL"],
    "eval": ["MODEL", "--tasks", "words.yaml"],
    "judge": ["new.jsonl", "old.jsonl", "--judge", "MODEL"],
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n}?", "completion": f"{n}"} for n in range(6)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("words.yaml").write_text(TASK)
    for name in ("new", "old"):
        known = {"tokens": [[1]], "finish": ["end"]}
        answers = [{"prompt": f"{n}?", "candidates": [f"{name} {n}"], **known} for n in range(6)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_is_said_before_and_after_by_the_prices(command: str) -> None:
    with Endpoint(lambda *_: answer("C" if command == "judge" else "4")) as endpoint:
        given = [word.replace("MODEL", f"{endpoint.address}#m") for word in COMMANDS[command]]
        options = ["--together", "1", "--per-minute", "60000", "--price-in", "1000"]
        options += ["--price-out", "2000", "-o", "out"]
        result = CliRunner().invoke(app, [command, *given, *options])
    assert result.exit_code == 0, result.output
    count = 12 if command == "judge" else 6
    assert endpoint.most_at_once == 1
    assert len(endpoint.asked) == count
    assert f"{count} requests, about " in result.stderr
    cost = (1000 * 7 + 2000 * 2) * count / 1e6
    assert f"{count} answers, {7 * count} tokens read, {2 * count} written, cost {cost:.4f}" in (
        result.stderr
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_options_that_are_out_of_range(command: str) -> None:
    result = CliRunner().invoke(app, [command, *COMMANDS[command], "-o", "out", "--together", "0"])
    assert result.exit_code == 2
    given = [word.replace("MODEL", "http://host/v1") for word in COMMANDS[command]]
    raised = CliRunner().invoke(app, [command, *given, "-o", "out"]).exception
    assert isinstance(raised, StropError)
    assert "which model?" in str(raised)
