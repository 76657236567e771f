"""Files are whole or not there, whatever happens, and nothing of others is destroyed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strop.data import (
    atomic_path,
    files,
    read_examples,
    read_json,
    read_text,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from strop.errors import StropError

WORKER = """\
import sys, time
from pathlib import Path
from strop.data import atomic_path
with atomic_path(Path(sys.argv[1])) as partial:
    partial.mkdir()
    (partial / "name").write_text(sys.argv[2])
    print("working", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def start(target: Path, text: str, seconds: float) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", WORKER, str(target), text, str(seconds)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def test_a_living_process_is_left_alone_and_a_dead_one_is_cleaned_up(tmp_path: Path) -> None:
    target = tmp_path / "target"
    dead = start(target, "dead", 60)
    dead.kill()
    dead.wait()
    assert len(names(tmp_path)) == 1  # what it left
    slow = start(target, "slow", 1)
    assert len(names(tmp_path)) == 1  # that of the living one
    quick = start(target, "quick", 0)
    assert quick.wait() == 0
    assert (target / "name").read_text() == "quick"
    assert slow.wait() == 0
    assert (target / "name").read_text() == "slow"
    assert names(tmp_path) == ["target"]


def fail_in_the_middle(target: Path, error: BaseException) -> None:
    with atomic_path(target) as partial:
        partial.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), ValueError()])
def test_nothing_remains_of_work_that_was_broken_off(error: BaseException, tmp_path: Path) -> None:
    write_text(tmp_path / "target", "old")
    with pytest.raises(type(error)):
        fail_in_the_middle(tmp_path / "target", error)
    assert names(tmp_path) == ["target"]
    assert read_text(tmp_path / "target") == "old"


def test_a_full_disk_is_one_line_that_names_the_target(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write(2) raises it
    with pytest.raises(StropError, match=r"^cannot write .*target: No space left on device$"):
        fail_in_the_middle(tmp_path / "target", full)
    assert names(tmp_path) == []


def test_an_error_in_a_file_that_is_read_keeps_its_name(tmp_path: Path) -> None:
    missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "elsewhere")
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        fail_in_the_middle(tmp_path / "target", missing)


def make_directory_at(target: Path) -> None:
    with atomic_path(target) as partial:
        partial.mkdir()


def test_files_and_directories_do_not_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "thesis").write_text("years of work")
    with pytest.raises(StropError, match="there is a directory of that name"):
        write_text(tmp_path / "directory", "x")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StropError, match="there is a file of that name"):
        make_directory_at(tmp_path / "file")
    assert names(tmp_path) == ["directory", "file"]
    assert names(tmp_path / "directory") == ["thesis"]


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StropError, match="pipe: is a device or a pipe, not a file"):
        write_text(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (read_examples, sha256_file):
            with pytest.raises(StropError, match="is a pipe or a device"):
                read(path)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"


def test_a_directory_may_hold_links_that_lead_nowhere(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "target") as partial:
        partial.mkdir()
        (partial / "link").symlink_to("nowhere")
    assert (tmp_path / "target" / "link").readlink() == Path("nowhere")


def test_odd_names(tmp_path: Path) -> None:
    for name in ("[x]*?", "a\nb", "ü\udcff", "..x"):
        for text in ("one", "two"):
            write_text(tmp_path / name, text)
            assert read_text(tmp_path / name) == text
    assert len(names(tmp_path)) == 4
    with pytest.raises(StropError, match="File name too long"):
        write_text(tmp_path / ("x" * 250), "")


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    for value in (float("nan"), float("-inf"), "\ud800"):
        with pytest.raises(StropError, match=r"cannot write x.json as JSON"):
            write_json(tmp_path / "x.json", [value])
    assert names(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, f'{{"a": {"9" * 5000}}}', "\x00"])
def test_json_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(StropError, match=r"x.json.*JSON"):
        read_json(path)


def test_a_name_with_a_null_character() -> None:
    with pytest.raises(StropError, match="cannot read"):
        read_text(Path("a\0b"))
    with pytest.raises(StropError, match="cannot write"):
        write_text(Path("a\0b"), "x")


def replace_directory(target: Path, text: str) -> None:
    with atomic_path(target) as partial:
        partial.mkdir()
        (partial / "name").write_text(text)
    assert (target / "name").read_text() == text


@pytest.mark.parametrize("possible", [True, False])
def test_a_directory_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, possible: bool
) -> None:
    """Also where two directories cannot change places."""
    if not possible:
        monkeypatch.setattr(files, "exchanged", lambda partial, target: False)
    for text in ("old", "new"):
        replace_directory(tmp_path / "target", text)
    assert names(tmp_path) == ["target"]


def test_there_is_no_moment_without_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    if not files.exchanged(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system cannot let two directories change places")
    replace_directory(tmp_path / "target", "old")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("stepped aside"))
    replace_directory(tmp_path / "target", "new")
    assert names(tmp_path) == ["one", "other", "target"]


def test_sigkill_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    target = tmp_path / "target"
    start(target, "0", 0).wait()
    for round in range(1, 6):
        process = start(target, str(round), 0)
        time.sleep(0.002 * round)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (target / "name").read_text() in map(str, range(round + 1))
    start(target, "last", 0).wait()
    assert names(tmp_path) == ["target"]


def test_names_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(StropError, match="not UTF-8: rename it"):
        sha256_json({"data": os.fsdecode(b"caf\xe9.jsonl")})
