"""Stages: what they leave, keep, refuse and clear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from strop.data import write_rows
from strop.errors import StropError, StropFailure
from strop.stage import only_one_in, rows_path, run_stage


def stopped(directory: Path, work: Path) -> dict[str, int]:
    (work / "paid.jsonl").write_text("{}\n")
    raise KeyboardInterrupt


def test_another_command_does_not_take_what_one_has_begun(tmp_path: Path) -> None:
    output, work = tmp_path / "out", tmp_path / "out.work"
    with pytest.raises(KeyboardInterrupt):
        run_stage("rate", output, {}, {}, stopped)
    with pytest.raises(StropError, match="strop rate, has done so far"):
        run_stage("score", output, {}, {}, lambda *_: {})
    assert (work / "paid.jsonl").exists()
    assert run_stage("rate", output, {}, {}, lambda *_: {"a": 1}) == {"a": 1}
    assert not work.exists()


def test_what_a_kill_left_is_cleared_by_the_same_command(tmp_path: Path) -> None:
    output, work = tmp_path / "out", tmp_path / "out.work"
    run_stage("rate", output, {}, {}, lambda *_: {})
    with pytest.raises(KeyboardInterrupt):
        run_stage("rate", tmp_path / "other", {}, {}, stopped)
    # As after a kill between the output and the clearing: the same plan has the same hash.
    (tmp_path / "other.work").rename(work)
    (tmp_path / ".out.0a1b2c3d.partial").mkdir()
    run_stage("rate", output, {}, {}, lambda *_: {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_work_that_is_of_other_settings_stays_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    output, work = tmp_path / "out", tmp_path / "out.work"
    run_stage("rate", output, {}, {}, lambda *_: {})
    with pytest.raises(KeyboardInterrupt):
        run_stage("rate", output, {"limit": 3}, {}, stopped)
    run_stage("rate", output, {}, {}, lambda *_: {})
    assert (work / "paid.jsonl").exists()
    for content in ("{", "[]"):
        (work / "settings.json").write_text(content)
        run_stage("rate", output, {}, {}, lambda *_: {})
        assert (work / "paid.jsonl").exists()
    with only_one_in(work):
        run_stage("rate", output, {}, {}, lambda *_: {})


def test_work_that_is_begun_anew_is_as_locked_as_other_work(tmp_path: Path) -> None:
    output, work = tmp_path / "out", tmp_path / "out.work"
    with pytest.raises(KeyboardInterrupt):
        run_stage("rate", output, {"limit": 3}, {}, stopped)

    def intruded(directory: Path, work: Path) -> dict[str, int]:
        assert not (work / "paid.jsonl").exists()
        (work / "new.jsonl").write_text("{}\n")
        for settings in ({}, {"limit": 5}):
            with pytest.raises(StropError, match="another process works in"):
                run_stage("rate", output, settings, {}, lambda *_: {})
        assert (work / "new.jsonl").exists()
        return {"a": 1}

    assert run_stage("rate", output, {}, {}, intruded) == {"a": 1}
    assert not work.exists()


def growing(directory: Path, work: Path) -> dict[str, int]:
    known = (work / "replies").read_text() if (work / "replies").exists() else ""
    (work / "replies").write_text(known + "x")
    (directory / "replies").write_text(known + "x")
    return {"missing": 2 - len(known)}


def replies(facts: dict[str, int]) -> list[str]:
    return ["replies"] if facts["missing"] else []


def test_answers_that_are_missing_are_asked_again_and_the_others_kept(tmp_path: Path) -> None:
    def run() -> int:
        facts = run_stage("rate", tmp_path / "out", {}, {}, growing, resume=replies)
        return int(facts["missing"])

    assert [run() for _ in range(4)] == [2, 1, 0, 0]
    assert (tmp_path / "out" / "replies").read_text() == "xxx"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_where_no_more_answers_come_the_output_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def dead(directory: Path, work: Path) -> dict[str, int]:
        with (work / "replies").open("a") as file:  # one more came before the end
            file.write("x")
        raise StropFailure("8 requests failed")

    def run(make: Callable[[Path, Path], dict[str, int]]) -> int:
        facts = run_stage("rate", tmp_path / "out", {}, {}, make, resume=replies)
        return int(facts["missing"])

    with pytest.raises(StropFailure):
        run(dead)
    assert run(growing) == 1
    assert run(dead) == 1
    assert "out: stays as it was: 8 requests failed" in capsys.readouterr().err
    assert (tmp_path / "out" / "replies").read_text() == "xx"
    assert run(growing) == -1
    assert (tmp_path / "out" / "replies").read_text() == "xxxx"


def test_rows_are_not_replaced_by_what_is_made_of_them(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "rows.jsonl", [{}])
    assert rows_path(tmp_path / "rows", tmp_path / "out") == tmp_path / "rows" / "rows.jsonl"
    for place in ("rows", "rows/rows.jsonl"):
        with pytest.raises(StropError, match="holds the rows that are read"):
            rows_path(tmp_path / place, tmp_path / "rows")
    with pytest.raises(StropError, match=r"without rows\.jsonl"):
        rows_path(tmp_path)
