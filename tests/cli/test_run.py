"""`strop run`: what it prints, its exit codes, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from strop.cli.main import app
from strop.data import read_json
from strop.recipes import STAGES, Section, Stage

RECIPE = """\
name: small
stages:
  - generate:
      model: {model}
      prompts: [hello]
      max_tokens: 8
  - check:
      candidate: {model}
      against: {model}
      text: notes.txt
      tokens: 512
      chunk: 64
"""
PROGRAM = """\
import sys
from strop.cli import main
try:
    main()
finally:
    loaded = {'torch', 'transformers', 'matplotlib'} & set(sys.modules)
    assert not loaded, loaded
"""


@pytest.fixture
def recipe(
    tmp_path: Path, tiny_model: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("A sentence of some length, many times over. " * 20)
    path = Path("small.yaml")
    path.write_text(RECIPE.format(model=tiny_model))
    return path


def inside(*arguments: str) -> Result:
    """Run the command in this process, which has PyTorch loaded."""
    return CliRunner().invoke(app, ["run", *arguments])


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, which must do without PyTorch."""
    line = [sys.executable, "-c", PROGRAM, "run", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_a_recipe_runs_and_a_second_time_needs_no_torch(recipe: Path) -> None:
    first = inside(str(recipe))
    assert first.exit_code == 0, first.output
    told = [line for line in first.stderr.splitlines() if line.startswith(("1/2", "2/2"))]
    assert told[0] == "1/2 generate: generate from tiny, 1 prompt"
    assert told[3].startswith("2/2 check: done in ")
    assert "report: runs/small/report.html" in first.stderr
    assert "Perplexity" in first.stdout
    assert "cannot tell" in first.stdout  # a model against itself
    report = Path("runs/small/report.html").read_bytes()

    second = alone(str(recipe))
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("already done") == 2
    assert second.stdout == first.stdout
    assert Path("runs/small/report.html").read_bytes() == report


def test_output_directory_and_settings(recipe: Path) -> None:
    done = inside(str(recipe), "-o", "here", "--set", "check.tokens=576")
    assert done.exit_code == 0, done.output
    assert read_json(Path("here/stages/02-check/metrics.json"))["chunks"] == 9
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("max_tokens", "max_token"), "small.yaml:6: unknown option of stage 'generate'"),
        (("[hello]", "[]"), "small.yaml:3: stage 'generate': prompts: at least one"),
        (("max_tokens: 8", "top_p: 2"), "small.yaml:3: stage 'generate': top_p must be"),
        (("- check", "- chekc"), "small.yaml:7: unknown stage 'chekc': did you mean 'check'?"),
        (("notes.txt", "none.txt"), "stage 'check': text: cannot read none.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    recipe: Path, change: tuple[str, str], message: str
) -> None:
    recipe.write_text(recipe.read_text().replace(*change))
    done = alone(str(recipe))
    assert done.returncode == 2
    assert done.stderr.startswith(f"strop: {message}")
    assert done.stderr.count("\n") == 1
    assert not list(Path().rglob("stages"))


def test_a_missing_model_is_found_before_anything_runs(recipe: Path) -> None:
    done = alone(str(recipe), "--set", "check.against=./nothing")
    assert done.returncode == 2
    assert "stage 'check': against: nothing: no such file or directory" in done.stderr
    assert not Path("runs/small/stages").exists()


@dataclass(frozen=True)
class InterruptOptions:
    pass


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> dict[str, object]:
        signal.raise_signal(signal.SIGINT)
        return {}

    row = Stage(InterruptOptions, interrupt, lambda _: "Ctrl-C", lambda _: Section("", ""))
    with monkeypatch.context() as patch:
        patch.setitem(STAGES, "generate", row)
        recipe.write_text("name: small\nstages:\n  - generate\n")
        done = inside(str(recipe))
    assert done.exit_code == 130
    assert "run the same command again to go on" in done.stderr
    files = {path.name for path in Path("runs/small").rglob("*") if path.is_file()}
    assert files == {".lock", "recipe.yaml"}
