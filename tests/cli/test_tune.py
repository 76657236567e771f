"""The commands of tuning: what they print, and one line for what is wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tuning.rows import preferences
from typer.testing import CliRunner

from strop.cli.main import app
from strop.data import read_json, read_rows
from strop.errors import StropError

pytestmark = pytest.mark.usefixtures("one_thread", "place")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STROP_CACHE", str(tmp_path / "cache"))
    preferences(tmp_path / "p.jsonl", 30, lambda n: ("+" * (n % 4 + 1), "-" * (n % 4 + 1)))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_commands_in_a_row(tiny_model: Path) -> None:
    reads = ("--prompt-tokens", 100, "--answer-tokens", 100)
    quick = ("--batch", 8, "--held-out", 0.4, "--learning-rate", 0.003)
    shown = run("tune", "preference", tiny_model, "p.jsonl", "-o", "tuned", *quick)
    assert "right: " in shown
    assert "prompts)" in shown
    assert "KL to the start: " in shown
    shown = run(
        "tune", "ranker", tiny_model, "p.jsonl", "-o", "ranker", "--pointwise", *reads, *quick
    )
    assert "steps: " in shown
    shown = run("sample", "tuned", "p.jsonl", "-o", "cand", "-n", 3, "--max-tokens", 5)
    assert shown.startswith("90 answers to 30 prompts, ")
    assert "ranked (pointwise)" in run("rank", "ranker", "cand", "-o", "ranked")
    assert "left out; chosen" in run("pairs", "ranked", "p.jsonl", "-o", "pairs")
    preferences(Path("fresh.jsonl"), 12, lambda n: ("+", "-"), "fresh")
    for name, model in (("new", "tuned"), ("old", tiny_model)):
        run("sample", model, "fresh.jsonl", "-o", name, "-n", 1, "--max-tokens", 5)
    shown = run("judge", "new", "old", "--ranker", "ranker", "-o", "verdict")
    assert "win rate: " in shown
    assert "at equal lengths: " in shown
    assert "(n = 12)" in shown


def test_two_processes_of_the_command_share_the_work(tiny_model: Path) -> None:
    """They are started as torchrun does, which says nothing of processors."""
    options = ("--batch", "8", "--held-out", "0.4", "--dtype", "float32")
    command = ("tune", "preference", str(tiny_model), "p.jsonl", *options)
    run(*command, "-o", "alone")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", "from strop.cli import main; main()", *command, "-o", "shared"],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
        )
        for rank in "01"
    ]
    assert [one.wait(timeout=120) for one in both] == [0, 0]
    facts = [read_json(Path(name) / "manifest.json")["facts"] for name in ("alone", "shared")]
    assert [one["processes"] for one in facts] == [1, 2]
    losses = [
        [row["loss"] for row in read_rows(Path(name) / "history.jsonl")]
        for name in ("alone", "shared")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_columns_are_named(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"id": n, "question": f"q{n}", "good": "+", "bad": "-"} for n in range(20)]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(StropError, match=r"q\.jsonl:1: unknown column 'id'"):
        run("tune", "preference", tiny_model, "q.jsonl", "-o", "t")
    named = ["prompt=question", "chosen=good", "rejected=bad"]
    options = [word for name in named for word in ("--columns", name)]
    run("tune", "preference", tiny_model, "q.jsonl", "-o", "t", *options, "--held-out", 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--loss", "slick"], "unknown loss 'slick': did you mean 'slic'"),
        (["--set", "beta=1"], "the loss slic has no setting 'beta'"),
        (["--set", "margin"], "--set margin: must be a name and a number"),
        (["--set", "margin=high"], "must be a name and a number"),
        (["--columns", "prompt"], "must be two names"),
        (["--learning-rate", "0"], "learning_rate must be more than 0"),
        (["--epochs", "1e308"], "at most 1,000,000 epochs"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--held-out", "1"], "held_out must be at least 0 and less than 1"),
        (["--patience", "2", "--held-out", "0"], "needs held-out prompts"),
        (["--rank", "-1"], "rank must not be negative"),
        (["--dtype", "float23"], "unknown dtype 'float23'"),
        (["--tracker", "wandbb"], "unknown tracker 'wandbb'"),
    ],
)
def test_what_is_wrong_is_one_line(tiny_model: Path, options: list[str], said: str) -> None:
    with pytest.raises(StropError, match=said):
        run("tune", "preference", tiny_model, "p.jsonl", "-o", "t", *options)
    assert not Path("t").exists()


def test_losses_are_listed_with_their_formulas() -> None:
    shown = run("tune", "losses")
    assert "slic\n  max(0, δ - Δs) + λ CE" in shown
    assert "settings: beta=0.1, smoothing=0; needs log-probabilities before tuning" in shown


@pytest.mark.parametrize("name", ["tune", "sample", "rank", "pairs", "judge"])
def test_help_names_the_arguments(name: str) -> None:
    words = ["tune", "preference"] if name == "tune" else [name]
    assert "--output" in run(*words, "--help")
