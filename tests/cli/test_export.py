"""`strop export`: one line about the check, one about what was written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from strop.cli import main


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STROP_CACHE", str(tmp_path / "cache"))
    Path("prompts.txt").write_text("hello\n\nwhat is 12?\n")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["strop", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    code = stopped.value.code
    assert isinstance(code, int)
    return code


def test_it_says_how_far_the_export_is_from_its_source(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (tiny_model, "--as", "gguf-q8_0", "-o", "tiny.gguf", "--prompts", "prompts.txt")
    assert run(monkeypatch, *arguments) == 0
    check, written = capsys.readouterr().out.splitlines()
    found = re.fullmatch(
        r"log-probabilities differ by (\S+) nats per token on average, (\S+) at most; same first "
        r"choice: ([\d.]+)% \((\d+) tokens of answers to 2 prompts\)",
        check,
    )
    assert found
    assert 0 < float(found[1]) <= float(found[2]) < 0.5
    assert 90 < float(found[3]) <= 100
    assert 2 <= int(found[4]) <= 64
    assert re.fullmatch(r"tiny\.gguf: [\d.]+ kB", written)
    assert Path("tiny.gguf").stat().st_size > 50_000


def test_the_prompts_are_ours_if_none_are_given(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tiny_model, "--as", "packed", "-f", "bfp6", "-o", "small") == 0
    assert "answers to 6 prompts" in capsys.readouterr().out
    assert '"format": "bfp6"' in Path("small/config.json").read_text()


def test_an_export_that_differs_is_a_failure(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    monkeypatch.setattr("strop.models.gguf_writer.rotary_order", lambda rows, _: np.arange(rows))
    assert run(monkeypatch, tiny_model, "--as", "gguf-f16", "-o", "tiny.gguf") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("strop: tiny.gguf: not kept, as it differs from ")
    assert len(shown.err.splitlines()) == 1
    assert not Path("tiny.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--as", "onnx", "-o", "out"], "unknown kind of export 'onnx'"),
        (["--as", "merged"], "missing option '--output' / '-o' (see strop export --help)"),
        (["-o", "out"], "missing option '--as'"),
        (["--as", "merged", "-o", "out", "-f", "bfp5"], "--format is for --as packed, not merged"),
        (["--as", "packed", "-o", "out", "-f", "bfp3"], "unknown format 'bfp3'"),
        (["--as", "adapter", "-o", "out"], "no adapter, so it cannot be exported as one"),
        (["--as", "merged", "-o", "out", "--prompts", "empty.txt"], "empty.txt: no prompts"),
        (["--as", "merged", "-o", "out", "--prompts", "none.txt"], "cannot read none.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("empty.txt").write_text("\n\n")
    assert run(monkeypatch, tiny_model, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
    assert not Path("out").exists()
