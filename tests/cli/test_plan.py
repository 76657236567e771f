"""`strop plan`: what it prints, and one line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

from strop.cli import main
from strop.cli.main import app
from strop.cli.plan import commands, duration
from strop.data import read_json
from strop.models.fitting import options
from strop.models.memory import read_facts
from strop.models.torch_backend import load_network
from strop.training import fitting
from strop.training.fitting import Speeds
from strop.training.lora import add_lora, save_adapter
from strop.training.memory import Lengths

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("--prompt-tokens", 40, "--completion-tokens", 10)
SPEEDS = Speeds({"float32": 1e10, "bfloat16": 1e9}, 1e9)


@pytest.fixture(autouse=True)
def same_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "probed", lambda facts: SPEEDS)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def strop(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["strop", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, printed.out, printed.err

    return strop


def test_the_first_that_fits_is_marked_and_can_be_run(tiny_model: Path, run: Any) -> None:
    code, out, _ = run("plan", tiny_model, "--memory", "4GB", *SHORT)
    assert code == 0
    rows = [line for line in out.splitlines() if "LoRA" in line or "all weights" in line]
    assert rows[0].startswith("│ -> LoRA, rank 8, float32  ")
    assert sum("->" in row for row in rows) == 1
    assert "bfloat16 would take 10 times as long here" in out
    assert out.splitlines()[-1].split()[:3] == ["strop", "tune", "preference"]
    assert "--rank 8 --dtype float32 --no-checkpointing --room 1020" in out.splitlines()[-1]


def test_a_packed_base_is_packed_first(tiny_model: Path) -> None:
    facts = read_facts(tiny_model)
    found = fitting.fitting(facts, Lengths(40, 10, 1, 1), 10**12, SPEEDS)
    packed = next(one for one in found if one.base)
    first, second = commands("org/model", packed)
    assert first == "strop pack org/model --format bfp8 -o model-bfp8"
    assert second.startswith("strop tune sft model-bfp8 examples.jsonl -o tuned")


def test_commands_that_are_printed_are_ones_that_strop_knows(tiny_model: Path) -> None:
    facts = read_facts(tiny_model)
    found = [
        *fitting.fitting(facts, Lengths(40, 10, 1, 1), 10**12, SPEEDS),
        *fitting.fitting(facts, Lengths(40, 10, 2, 1), 10**12, SPEEDS),
        *options(facts, 100, 10**12, 1),
    ]
    for one in found:
        for line in commands("small", one):
            group: Any = typer.main.get_command(app)
            words = line.split()[1:]
            while hasattr(group, "commands"):
                group, words = group.commands[words[0]], words[1:]
            assert group.make_context("strop", words).params["model"] in line


def test_json_holds_all_settings(tiny_model: Path, run: Any) -> None:
    code, out, _ = run("plan", tiny_model, "--memory", "4GB", "--json", *SHORT, "--rank", 4)
    assert code == 0
    found = json.loads(out)
    assert found["memory_bytes"] == 4 * 10**9
    assert found["measured"] is None
    assert {row["rank"] for row in found["settings"]} == {4}
    for row in found["settings"]:
        assert row["memory_bytes"] == sum(row["parts"].values())
        assert row["fits"]


def test_ways_to_generate_without_pytorch(tiny_model: Path) -> None:
    code = (
        "import sys\n"
        "from strop.cli import main\n"
        f"sys.argv = ['strop', 'plan', {str(tiny_model)!r}, '--task', 'generate']\n"
        "try:\n    main()\n"
        "except SystemExit as stopped:\n    assert stopped.code == 0\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    assert "-> bfp8, keys and values fp16" in result.stdout
    assert "bfp8, keys and values fp16: the most precise that fits" in lines
    assert lines[-1].split()[:2] == ["strop", "generate"]


def test_an_adapter_is_gone_on_with(tiny_model: Path, tmp_path: Path, run: Any) -> None:
    network = load_network(tiny_model, read_json(tiny_model / "config.json"), torch.float32)
    add_lora(network, 3, 16.0)
    save_adapter(network, str(tiny_model), tmp_path)
    code, out, _ = run("plan", tmp_path, *SHORT, "--memory", "4GB", "--json")
    found = json.loads(out)["settings"]
    assert code == 0
    assert {(one["rank"], one["base"]) for one in found} == {(3, None)}
    _, out, _ = run("plan", tmp_path, *SHORT, "--memory", "4GB")
    assert f"strop tune preference {tmp_path} " in out
    code, _, err = run("plan", tmp_path, *SHORT, "--rank", 4)
    assert (code, "is an adapter of rank 3: leave out --rank" in err) == (2, True)


def test_without_memory_it_is_what_the_machine_has(tiny_model: Path, run: Any) -> None:
    code, out, _ = run("plan", tiny_model, *SHORT, "--json")
    assert code == 0
    assert json.loads(out)["memory_bytes"] > 0


@pytest.mark.parametrize("task", ["tune", "generate"])
def test_a_check_measures_what_was_predicted(tiny_model: Path, run: Any, task: str) -> None:
    code, out, _ = run("plan", tiny_model, "--task", task, "--check", *SHORT, "--context", 100)
    assert code == 0
    [line] = [line for line in out.splitlines() if line.startswith("predicted ")]
    assert "GB, measured 0." in line
    assert line.endswith(" measured")


@pytest.mark.parametrize("task", ["tune", "generate"])
def test_what_fits_in_no_setting_fails_in_one_line(tiny_model: Path, run: Any, task: str) -> None:
    code, out, err = run("plan", tiny_model, "--task", task, "--memory", "1MB", *SHORT)
    assert code == 1
    assert "->" not in out
    [line] = err.splitlines()
    assert "fits into 0.00 GB in no setting: the smallest needs about 0." in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--memory", "4gb"), "'4gb' is not a size: write such as 4GB, 3.5GiB or 800MB"),
        (("--memory", ""), "'' is not a size"),
        (("--memory", "0GB"), "'0GB' is not a size"),
        (("--task", "tune_"), "unknown task 'tune_': did you mean 'tune'?"),
        (("--prompt-tokens", "600"), "650 tokens of prompt and completion do not fit"),
        (("--completions", "0"), "completions must be at least 1, not 0"),
        (("--task", "generate", "--context", "600"), "600 tokens are more than the context of 512"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tiny_model: Path, run: Any, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = run("plan", tiny_model, *arguments)
    assert code == 2
    [line] = err.splitlines()
    assert message in line


def test_times_have_two_digits() -> None:
    assert [duration(one) for one in (0.0012, 0.0456, 0.2, 4.56, 31.4)] == [
        *("1.2 ms", "46 ms", "200 ms", "4.6 s", "31 s")
    ]
