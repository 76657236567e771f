"""What every command does with bad usage, closed streams, signals and full disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from strop.cli import main; main()"]


def strop(*arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "40", **settings}
    line = [*COMMAND, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=environment)


def shell(script: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, **settings}
    script = f'strop() {{ "$PYTHON" -c "{COMMAND[-1]}" "$@"; }}; {script}'
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pakc"], "no such command 'pakc'. Did you mean 'pack'"),
        (["pack"], "missing argument 'model' (see strop pack --help)"),
        (["pack", "x", "--frmat", "y"], "no such option: --frmat"),
        (["pack", "x", "y"], "got unexpected extra argument"),
        (["unpack", "x"], "missing option '--output'"),
        (["generate", "x", "y", "--seed", "z"], "invalid value for '--seed'"),
        (["formats", "lst"], "no such command 'lst'. Did you mean 'list'"),
        (["pack", "x\ny"], "unknown model 'x y'"),
        (["pack", "x\x1b[2Jy"], "unknown model 'x\\x1b[2Jy'"),  # would clear the screen
        (["check", "x", "--seed", "-1"], "invalid value for '--seed'"),
        (["pack", "smolm2"], "unknown model 'smolm2': did you mean 'smollm2'?"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = strop(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"strop: {message}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_and_version_are_no_errors() -> None:
    assert strop("--help").returncode == strop("--version").returncode == 0
    done = strop("formats")
    assert done.returncode == 2
    assert "compare" in done.stdout + done.stderr


def test_closed_and_full_streams() -> None:
    assert shell("strop formats list >&-").returncode == 0
    done = shell("strop formats list 2>&-")
    assert (done.returncode, "bfp5" in done.stdout) == (0, True)
    done = shell("strop formats list >/dev/full")
    assert (done.returncode, done.stderr) == (2, "strop: No space left on device\n")
    for command in ("generate", "chat"):
        assert "Traceback" not in shell(f"strop {command} nothing - <&-").stderr
    done = shell("strop formats list | true")
    assert done.stderr == ""


def test_streams_that_are_not_utf8() -> None:
    done = strop("generate", "größe", "x", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "unknown model 'gr\\xf6\\xdfe'" in done.stderr


PACKING = """\
import sys, time
from strop.cli import main
from strop.models import packing
write = packing.write_safetensors
def slow(path, *arguments):
    write(path, *arguments)
    print("written", flush=True)
    time.sleep(60)
packing.write_safetensors = slow
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "strop: interrupted\n"),
        (signal.SIGTERM, 143, "strop: terminated\n"),
        (signal.SIGHUP, 143 - 15 + 1, "strop: terminated\n"),
    ],
)
def test_signals_leave_nothing(
    number: signal.Signals, code: int, message: str, tiny_model: Path, tmp_path: Path
) -> None:
    line = [sys.executable, "-c", PACKING, "pack", str(tiny_model), "-o", str(tmp_path / "packed")]
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # as nohup would ignore one
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate()
    assert (process.returncode, error) == (code, message)
    assert not list(tmp_path.iterdir())


def test_two_packs_to_one_directory_at_once(tiny_model: Path, tmp_path: Path) -> None:
    line = [*COMMAND, "pack", str(tiny_model), "-o", str(tmp_path / "packed")]
    pairs = [
        subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [(process.communicate()[1], process.returncode) for process in pairs] == [("", 0)] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    assert strop("unpack", tmp_path / "packed", "-o", tmp_path / "plain").returncode == 0


def test_a_directory_without_permission(tiny_model: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("root may write everywhere")
    done = strop("pack", tiny_model, "-o", locked / "packed")
    assert done.returncode == 2
    assert done.stderr == f"strop: cannot write in directory {locked}: permission denied\n"


def test_the_default_output_has_a_name(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert strop("pack", f"{tiny_model}/").returncode == 0
    assert strop("pack", f"{tiny_model}/../tiny/.", "-f", "mx6").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-bfp5", "tiny-mx6"]
