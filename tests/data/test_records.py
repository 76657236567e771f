"""Rows of training data: what is read, what is left out with a reason, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.data import (
    Example,
    Preference,
    held_out,
    prompt_key,
    read_examples,
    read_preferences,
    read_prompts,
    read_rows,
    report_rejected,
    write_rows,
)
from strop.data.instructions import read_instructions
from strop.data.records import Asked
from strop.errors import StropError

USER = {"role": "user", "content": "Hi"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def file_of(path: Path, *rows: Any) -> Path:
    file = path / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def pair(**changes: Any) -> dict[str, Any]:
    return {"prompt": "Hi", "chosen": "Hello.", "rejected": "What?"} | changes


def test_a_byte_order_mark_costs_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\r\n', encoding="utf-8-sig", newline="")
    records = read_examples(path)
    assert [row.prompt for row in records.rows] == ["a"]
    assert not records.rejected


def test_preferences_as_text_as_messages_and_with_the_prompt_in_the_answers(tmp_path: Path) -> None:
    file = file_of(
        tmp_path,
        pair(),
        pair(prompt=[USER]),
        pair(chosen=[said("Hello.")], rejected=[said("What?")]),
        {"chosen": [USER, said("Hello.")], "rejected": [USER, said("What?")]},
        pair(chosen=[USER, said("Hello.")], rejected=[USER, said("What?")]),
        pair(reference="Good day.", chosen_tokens=[1, 2], rejected_tokens=[3]),
        pair(chosen_value=1, rejected_value=0.5),
    )
    plain, messages, answers, implicit, both, full, valued = read_preferences(file).rows
    assert plain == answers == both == Preference("Hi", "Hello.", "What?")
    assert messages == implicit == Preference((USER,), "Hello.", "What?")
    assert full == Preference("Hi", "Hello.", "What?", "Good day.", ((1, 2), (3,)))
    assert valued.values == (1.0, 0.5)


BAD = [
    ("{", "not JSON"),
    ("[1]", "not an object"),
    (pair(chosen=""), "empty chosen"),
    (pair(rejected="  \n"), "empty rejected"),
    (pair(chosen="What?"), "chosen and rejected are equal"),
    (pair(prompt=""), "empty prompt"),
    (pair(prompt=[]), "empty prompt"),
    (pair(prompt=3), "prompt is neither text nor messages"),
    (pair(chosen=None), "chosen is neither text nor messages"),
    (pair(prompt=[{"role": "user"}]), "prompt: a message needs role and content"),
    (pair(prompt=[{"role": "robot", "content": "x"}]), "not a role and a text: 'robot'"),
    (pair(prompt=[USER, said("Yes?")]), "the prompt ends with the assistant's message"),
    ({"chosen": [said("a")] * 2, "rejected": [said("a"), said("b")]}, "ends with the assistant's"),
    (pair(chosen=[USER]), "chosen does not end with the assistant's message"),
    (pair(chosen=[USER, said("a")], rejected=[said("b")]), "answer different prompts"),
    (pair(prompt="Other", chosen=[USER, said("a")], rejected=[USER, said("b")]), "is not that"),
    ({"chosen": "a", "rejected": "b"}, "no prompt"),
    (pair(chosen="\ud800"), "chosen is not valid Unicode"),
    (pair(chosen_tokens=[1]), "chosen_tokens and rejected_tokens are not both tokens"),
    (pair(chosen_tokens=[1], rejected_tokens=[True]), "are not both tokens"),
    (pair(chosen_value="high", rejected_value=1), "are not both value"),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_bad_rows_are_left_out_with_their_line_and_reason(
    tmp_path: Path, row: Any, reason: str
) -> None:
    records = read_preferences(file_of(tmp_path, pair(), row))
    assert len(records.rows) == 1
    [rejected] = records.rejected
    assert rejected.line == 2
    assert reason in rejected.reason


def test_a_file_without_a_usable_row_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(StropError, match=r"no row that can be used \(line 1: empty chosen\)"):
        read_preferences(file_of(tmp_path, pair(chosen="")))
    with pytest.raises(StropError, match=r"no row that can be used$"):
        read_preferences(file_of(tmp_path))


def test_unknown_columns_are_an_error_unless_columns_are_named(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"prompt": "Hi", "chosn": "Hello.", "rejected": "What?"})
    with pytest.raises(StropError, match=r"rows\.jsonl:1: unknown column 'chosn': did you mean"):
        read_preferences(file)
    assert read_preferences(file, {"chosen": "chosn"}).rows[0].chosen == "Hello."
    with pytest.raises(StropError, match="no column 'chosen': it has prompt, chosn, rejected"):
        read_preferences(file, {"prompt": "prompt"})
    with pytest.raises(StropError, match="unknown column 'promt'"):
        read_preferences(file, {"promt": "prompt"})


def test_examples_and_prompts(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"prompt": "Hi", "completion": "Hello."})
    assert read_examples(file).rows == [Example("Hi", "Hello.")]
    assert read_prompts(file).rows == [Asked("Hi", "Hello.")]
    assert read_prompts(file_of(tmp_path, {"prompt": [USER]})).rows == [Asked((USER,))]
    with pytest.raises(StropError, match="no column 'completion'"):
        read_examples(file_of(tmp_path, {"prompt": "Hi"}))


def test_a_prompt_is_known_as_text_and_as_the_message_of_a_user() -> None:
    assert prompt_key("Hi") == prompt_key((USER,))
    others = ("Ho", ({"role": "system", "content": "Hi"},), (USER, said("a"), USER))
    assert prompt_key("Hi") not in map(prompt_key, others)


def test_what_is_held_out_depends_on_the_prompt_alone() -> None:
    keys = [prompt_key(f"prompt {number}") for number in range(4000)]
    part = [held_out(key, 0.25) for key in keys]
    assert 0.22 < sum(part) / len(part) < 0.28
    assert part == [held_out(key, 0.25) for key in keys]
    assert part != [held_out(key, 0.25, seed=1) for key in keys]
    assert all(held_out(key, 0.5) for key, one in zip(keys, part, strict=True) if one)


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none())))
def test_rows_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    try:
        write_rows(path, rows)
    except (StropError, UnicodeEncodeError):
        assert any("\ud800" <= c <= "\udfff" for row in rows for c in json.dumps(row))
        return
    assert read_rows(path) == rows


def test_damaged_rows_are_named_by_line(tmp_path: Path) -> None:
    with pytest.raises(StropError, match=r"rows\.jsonl:2: not JSON"):
        read_rows(file_of(tmp_path, {}, "{"))
    with pytest.raises(StropError, match=r"rows\.jsonl:1: not an object"):
        read_rows(file_of(tmp_path, "3"))


def test_what_can_be_read_and_not_written_is_rejected(tmp_path: Path) -> None:
    row = '{"prompt": "a", "completion": "b", "more": %s}\n'
    deep = "[" * 100_000 + "]" * 100_000
    values = ["1", "1e999", "NaN", r'"\ud800"', deep, f"1{'0' * 400}"]
    (tmp_path / "rows.jsonl").write_text("".join(row % value for value in values))
    found = read_instructions(tmp_path / "rows.jsonl")
    assert found.lines == [1, 6]
    reasons = {one.line: one.reason for one in found.rejected}
    assert reasons[2] == reasons[4] == "has what cannot be written as JSON"
    assert reasons[3] == reasons[5] == "not JSON"
    assert set(reasons) == {2, 3, 4, 5}
    write_rows(tmp_path / "out.jsonl", (one.row for one in found.rows))
    with pytest.raises(StropError, match="not JSON"):
        read_rows(file_of(tmp_path, row % "-Infinity"))


def test_rows_of_any_depth_are_read_and_written_or_rejected_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    nested = ["[" * depth + "]" * depth for depth in (1, 99, 100, *range(850, 1000, 3))]
    rows = [f'{{"prompt": "a", "completion": "b", "more": {one}}}' for one in nested]
    path.write_text("\n".join([*rows, *nested]))
    found = read_instructions(path)
    assert found.lines == [1, 2]
    assert {one.reason for one in found.rejected} <= {
        "nested too deeply",
        "not JSON",
        "not an object",
    }
    write_rows(tmp_path / "out.jsonl", (one.row for one in found.rows))
    report_rejected(found.rejected, len(nested), tmp_path / "rejected.jsonl")
    assert len(read_rows(tmp_path / "rejected.jsonl")) == 2 * len(nested) - 2


def test_brackets_in_a_text_are_not_depth(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"prompt": "[" * 500, "completion": "{" * 500})
    assert len(read_instructions(path).rows) == 1


def test_values_that_no_float_holds_are_rejected(tmp_path: Path) -> None:
    rows = [pair(chosen_value=value, rejected_value=0) for value in (1, 10**400)]
    found = read_preferences(file_of(tmp_path, *rows))
    assert [one.values for one in found.rows] == [(1.0, 0.0)]
    assert len(found.rejected) == 1


def test_rejected_rows_are_written_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = read_preferences(file_of(tmp_path, pair(), pair(chosen=""), pair(chosen="")))
    report_rejected(records.rejected, 3, tmp_path / "rejected.jsonl")
    assert "2 of 3 rows left out: 2 empty chosen" in capsys.readouterr().err
    assert [row["line"] for row in read_rows(tmp_path / "rejected.jsonl")] == [2, 3]
