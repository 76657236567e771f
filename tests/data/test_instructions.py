"""Instruction data by the columns that people use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from strop.data.instructions import read_instructions, unique
from strop.errors import StropError


def write(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows)
    )
    return path


def test_every_form_gives_prompt_and_answer(tmp_path: Path) -> None:
    user, said = {"role": "user", "content": "Add 1 and 2"}, {"role": "assistant", "content": "3"}
    rows = [
        {"prompt": "Add 1 and 2", "completion": "3"},
        {"instruction": "Add", "input": "1 and 2", "output": "3"},
        {"instruction": "Add 1 and 2", "input": "", "output": "3"},
        {"instruction": "Add", "context": "1 and 2", "response": "3", "category": "sums"},
        {"messages": [user, said]},
    ]
    found = read_instructions(write(tmp_path / "a.jsonl", *rows)).rows
    assert [one.prompt for one in found] == [
        "Add 1 and 2",
        "Add\n\n1 and 2",
        "Add 1 and 2",
        "Add\n\n1 and 2",
        (user,),
    ]
    assert {one.completion for one in found} == {"3"}
    assert found[3].category == "sums"
    assert found[0].category is None
    assert found[0].key == found[2].key != found[1].key
    assert [one.row for one in unique(found, tmp_path)] == [rows[0], rows[1], rows[4]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ({"prompt": "a"}, "columns are prompt"),
        ({"instruction": "a", "output": ""}, "empty completion"),
        ({"instruction": 3, "output": "b"}, "instruction is not text"),
        ({"instruction": "a", "input": [], "output": "b"}, None),
        ({"instruction": "a", "input": 3, "output": "b"}, "input is not text"),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "no prompt"),
        ({"messages": []}, "empty messages"),
        ({"prompt": "a", "completion": "c", "scores": {"ifd": 1, "loss": -0.5}}, None),
        ({"prompt": "a", "completion": "c", "scores": []}, "scores is not an object"),
        ({"prompt": "a", "completion": "c", "scores": None}, "scores is not an object"),
        ({"prompt": "a", "completion": "c", "scores": 3}, "scores is not an object"),
        ({"prompt": "a", "completion": "c", "scores": {"ifd": "1"}}, "ifd is no finite number"),
        ({"prompt": "a", "completion": "c", "scores": {"ifd": True}}, "ifd is no finite number"),
        ({"prompt": "a", "completion": "c", "scores": {"ifd": None}}, "ifd is no finite number"),
        ({"messages": [], "scores": {"ifd": 10**400}}, "ifd is no finite number"),
        ('{"prompt": "a", "completion": "c", "scores": {"ifd": 1e999}}', "no finite number"),
    ],
)
def test_rows_that_are_left_out_say_why(tmp_path: Path, row: Any, reason: str | None) -> None:
    good = {"prompt": "a", "completion": "b"}
    found = read_instructions(write(tmp_path / "a.jsonl", good, row))
    assert [reason in one.reason for one in found.rejected] == ([True] if reason else [])


def test_a_file_without_a_row_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StropError, match="no row that can be used"):
        read_instructions(write(tmp_path / "a.jsonl", {"text": "b"}))
