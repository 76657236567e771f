"""Rubrics, and grades in replies."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.data.instructions import Instruction
from strop.errors import StropError
from strop.selection.rubric import expected_grade, open_rubric, parse_grade, rubrics


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("4", 4.0),
        ("4.5", 4.5),
        ("4,5", 4.5),
        ("4,25", 4.25),
        ("4.125", 4.125),
        (" 4\nbecause it has 3 errors", 4.0),
        ("\n\n5", 5.0),
        ("Score: 3", 3.0),
        ("**3.5**", 3.5),
        ("4/5", 4.0),
        ("4 out of 5.", 4.0),
        ("Grade: 4/5 (4/5)", 4.0),
        ("0", 0.0),
    ],
)
def test_grades(reply: str, grade: float) -> None:
    assert parse_grade(reply, 0, 5) == (grade, "rated")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty reply"),
        ("\n \n", "empty reply"),
        ("The answer is right.", "no number"),
        ("7", "out of range"),
        ("-1", "out of range"),
        ("45", "out of range"),
        ("8/10", "another scale"),
        ("4/10", "another scale"),
        ("4 or 5", "several numbers"),
        ("Between 3 and 4", "several numbers"),
        ("90%", "no number"),
        ("four", "no number"),
        ("3.141.592", "no number"),
        ("1,000", "no number"),
        ("It has 1,000 words.", "no number"),
        ("4,500/5", "no number"),
        ("4,500 / 5", "no number"),
        ("1,000 words: 4", "several numbers"),
    ],
)
def test_replies_without_a_grade_say_why(reply: str, reason: str) -> None:
    assert parse_grade(reply, 0, 5) == (None, reason)


@given(st.text(max_size=40))
def test_no_reply_is_more_than_a_grade(reply: str) -> None:
    grade, status = parse_grade(reply, 0, 5)
    assert (grade is None) != (status == "rated")
    assert grade is None or 0 <= grade <= 5


@given(st.floats(0, 5).map(lambda one: round(one, 2)))
def test_every_grade_is_read_back(grade: float) -> None:
    assert parse_grade(f"{grade:.2f}", 0, 5)[0] == grade


def test_expected_grades() -> None:
    logps = [math.log(p) for p in (0.1, 0.3, 0.2)]
    grade, mass = expected_grade(logps, ("3", "4", "5"))
    assert grade == pytest.approx((0.3 + 1.2 + 1.0) / 0.6)
    assert mass == pytest.approx(0.6)
    assert expected_grade([None, math.log(0.5), None], ("3", "4", "5")) == (4.0, pytest.approx(0.5))
    assert expected_grade([None, None], ("0", "1")) == (None, 0.0)
    assert expected_grade([-math.inf, -math.inf], ("0", "1")) == (None, 0.0)


#: The grades of the rubrics that come with Strop, and which parts of a row they show
BUILT_IN = {
    "accuracy": ("012345", ("prompt", "completion")),
    "complexity": ("123456", ("prompt",)),
    "helpfulness": ("012345", ("prompt", "completion")),
    "quality": ("123456", ("prompt", "completion")),
}


def test_what_a_row_says_is_never_part_of_the_template() -> None:
    row = Instruction("{{ completion }} {% if", "{{ 7 * 7 }} </s>")
    assert rubrics() == tuple(BUILT_IN)
    for name, (grades, parts) in BUILT_IN.items():
        rubric = open_rubric(name)
        system, user = rubric.asked(row)
        assert (system["role"], user["role"]) == ("system", "user")
        for part in ("prompt", "completion"):
            assert user["content"].count(getattr(row, part)) == (part in parts)
        assert rubric.grades == tuple(grades)
        assert user["content"].endswith(f"from {grades[0]} to {grades[-1]}:")


def test_rows_share_the_beginning_of_what_is_asked() -> None:
    for name in rubrics():
        texts = [open_rubric(name).asked(Instruction(one, "x"))[1]["content"] for one in "pq"]
        place = next(n for n, (one, other) in enumerate(zip(*texts, strict=True)) if one != other)
        assert place > 250
        assert [text[place] for text in texts] == ["p", "q"]


def test_rubrics_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("lowest: 1\nhighest: 3\nprompt: 'Is {{ prompt }} short in {{completion}}?'\n")
    rubric = open_rubric(str(path))
    assert (rubric.name, rubric.grades) == ("short", ("1", "2", "3"))
    [user] = rubric.asked(Instruction("A", "B"))
    assert user["content"] == "Is A short in B?"
    assert rubric.hash != open_rubric("accuracy").hash


@pytest.mark.parametrize("part", ["prompt", "completion"])
def test_a_rubric_may_show_one_part_of_a_row(tmp_path: Path, part: str) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"prompt: 'How long is {{{{ {part} }}}}?'\n")
    [user] = open_rubric(str(path)).asked(Instruction("the prompt", "the completion"))
    assert user["content"] == f"How long is the {part}?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lowest: 1", "a rubric needs prompt"),
        ("prompt: 'How hard is this?'", "shows neither {{ prompt }} nor {{ completion }}"),
        ("prompt: '{{ prompt }} {{ completion }}'\nhighest: 10", "0 to 9"),
        ("prompt: '{{ prompt }} {{ completion }}'\nhighest: '5'", "whole numbers"),
        ("prompt: '{{ prompt }} {{ completion }}'\nhighst: 5", "did you mean 'highest'"),
        ("prompt: [", "not YAML"),
        ("prompt: 3", "must be text"),
        ("- a", "a rubric is an object"),
    ],
)
def test_what_is_no_rubric_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(StropError, match=said):
        open_rubric(str(path))


def test_a_template_that_fails_is_said(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("prompt: '{{ prompt }} {{ completion }} {{ other }}'")
    with pytest.raises(StropError, match="template of a rubric failed"):
        open_rubric(str(path)).asked(Instruction("a", "b"))
    with pytest.raises(StropError, match="did you mean 'accuracy'"):
        open_rubric("acuracy")
