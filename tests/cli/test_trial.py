"""strop trial: what is said of each selector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from strop.cli.main import app
from strop.errors import StropError

pytestmark = pytest.mark.usefixtures("one_thread", "in_process")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_each_selector_has_a_line(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Say {n}", "completion": "++ " * (1 + n % 7)} for n in range(160)]
    Path("raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("score", "raw.jsonl", "--scores", "length", "-o", "scored")
    sizes = ("--keep", 12, "--parts", 2, "--random", 2, "--batch", 4, "--learning-rate", 3e-2)
    command = ("trial", "scored", "--model", tiny_model, *sizes, "-o", "out")
    shown = run(*command, "--by", "length", "--by", "-length")
    lines = shown.splitlines()
    assert lines[0].startswith("loss: ")
    assert "before training" in lines[0]
    assert "n = " in lines[0]
    assert [line.split(":")[0] for line in lines[1:3]] == ["  length", "  -length"]
    assert all("against random" in line and "length-matched" in line for line in lines[1:3])
    Path("more.yaml").write_text("short: {by: length, most: {length: 5}}")
    assert "\n  short: " in run(*command, "--by", "length", "--selectors", "more.yaml")
    Path("more.yaml").write_text("short: {most: {length: 5}, bye: 1}")
    with pytest.raises(StropError, match=r"more.yaml:1: .*bye"):
        run(*command, "--selectors", "more.yaml")
    with pytest.raises(StropError, match="which selectors"):
        run(*command)
    with pytest.raises(StropError, match="embed"):
        run(*command, "--by", "k-center")
