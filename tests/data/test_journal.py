"""Rows that survive whatever happens after them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.data.journal import Journal
from strop.errors import StropError

WRITER = """\
import sys
from pathlib import Path
from strop.data.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    for number in range(10**9):
        journal.add({"number": number, "text": "x" * 1000})
        print(number, flush=True)
"""


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    place = tmp_path / "new" / "rows.jsonl"
    with Journal(place) as journal:
        assert journal.rows == []
        journal.add({"text": "one\n\u2028 ü", "score": None})
        journal.add({"score": 4.5})
    with Journal(place) as journal:
        assert journal.rows == [{"text": "one\n\u2028 ü", "score": None}, {"score": 4.5}]
        journal.add({"last": True})
    with Journal(place) as journal:
        assert len(journal.rows) == 3


@given(st.integers(0, 60))
def test_a_line_that_was_cut_off_is_as_if_it_had_not_been(tmp_path_factory, kept: int) -> None:
    place = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    with Journal(place) as journal:
        for number in range(3):
            journal.add({"number": number})
    whole = place.read_bytes()
    cut = whole[: min(kept, len(whole))]
    place.write_bytes(cut)
    with Journal(place) as journal:
        assert [row["number"] for row in journal.rows] == list(range(cut.count(b"\n")))
        journal.add({"number": 9})
    with Journal(place) as journal:
        assert journal.rows[-1] == {"number": 9}


def test_a_killed_process_leaves_every_row_that_it_had_finished(tmp_path: Path) -> None:
    place = tmp_path / "rows.jsonl"
    line = [sys.executable, "-c", WRITER, str(place)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(200):
        last = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Journal(place) as journal:
        assert [row["number"] for row in journal.rows][: last + 1] == list(range(last + 1))


@pytest.mark.parametrize("damaged", ["{", "[1]", "\x00"])
def test_damage_before_the_end_is_named(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"a": 1}}\n{damaged}\n{{"b": 2}}\n')
    with pytest.raises(StropError, match=r"rows\.jsonl:2: not"):
        Journal(tmp_path / "rows.jsonl")
