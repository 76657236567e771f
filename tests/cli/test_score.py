"""strop score: what each option is for, in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tuning.rows import examples, preferences
from typer.testing import CliRunner

from strop.cli.main import app
from strop.data import read_rows
from strop.errors import StropError

pytestmark = pytest.mark.usefixtures("one_thread")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_scores_by_a_model_a_target_and_a_ranker(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    examples(Path("raw.jsonl"), 10)
    Path("target.jsonl").write_text(json.dumps({"prompt": "a", "completion": "+++"}))
    preferences(Path("p.jsonl"), 30, lambda n: ("+" * 4, "-" * 4))
    reads = ("--prompt-tokens", 100, "--answer-tokens", 100, "--held-out", 0.4, "--batch", 8)
    run("tune", "ranker", tiny_model, "p.jsonl", "-o", "scorer", "--pointwise", *reads)
    names = ("--scores", "length, influence,reward")
    given = ("--model", tiny_model, "--target", "target.jsonl", "--ranker", "scorer")
    shown = run("score", "raw.jsonl", *names, *given, "-o", "scored")
    assert "10 rows: length of 10, influence of 10, reward of 10" in shown
    for row in read_rows(Path("scored/rows.jsonl")):
        assert -1 < row["scores"]["influence"] < 1
        assert 0 < row["scores"]["reward"] < 1
    for left_out, what in ((2, "influence needs a target"), (4, "reward needs a ranker")):
        less = given[:left_out] + given[left_out + 2 :]
        with pytest.raises(StropError, match=what):
            run("score", "raw.jsonl", *names, *less, "-o", "other")
