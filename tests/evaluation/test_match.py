"""What is extracted from replies, and which texts are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.errors import StropError
from strop.evaluation.match import answers_of, extracted, plain, same
from strop.evaluation.tasks import Task

NUMBERS = Task("t", "T", {}, "match", "", extract="number")
BEFORE = st.sampled_from(
    ["", "It is ", "x=", "(", "**", "\\boxed{", "$", "\n", '"', "between 3 and "]
)
AFTER = st.sampled_from(["", ".", " apples", ")", "**", "}", "%", "!", ", of course.", "-fold"])
ENDS = st.sampled_from(["3", "x", "COVID", ")", "]", "}", "%", "°", "7.5", "-", "–", "—"])
HYPHENS = st.sampled_from(["-", "−"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("U.S.", "US"),
        ("the U.S.", "The US"),
        ("don't", "dont"),
        ("  The  Hague!", "hague"),
        ("A", "a"),
        ("A.", "a"),
        ("Straße", "STRASSE"),
        ("snake_case", "snakecase"),
    ],
)
def test_texts_that_are_the_same(one: str, other: str) -> None:
    assert plain(one) == plain(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("A", "The"), ("A", "B"), ("+", "-"), ("A", "-"), ("US", "USA"), ("a b", "ab")],
)
def test_texts_that_differ(one: str, other: str) -> None:
    assert plain(one) != plain(other)


@given(st.text())
def test_nothing_is_left_only_of_space(text: str) -> None:
    assert bool(plain(text)) == bool(text.casefold().strip())
    assert plain(text) == " ".join(plain(text).split())


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("It costs $1,234.50.", "1,234.50"),
        ("so −3", "−3"),
        ("so -3 degrees", "-3"),
        ("The answer is 3.", "3"),
        ("on pages 3-8", "8"),
        ("7-8", "8"),
        ("7–8", "8"),
        ("about .5", ".5"),
        ("about -.5", "-.5"),
        ("version 3.5.2", "2"),
        ("COVID-19", "19"),
        ("10-(2)-3", "3"),
        ("x = 5 - 3 = 2", "2"),
        ("It is 5...", "5"),
        ("4x-7", "7"),
        ("no idea", None),
        ("-", None),
        (".", None),
    ],
)
def test_the_last_number_of_a_reply(reply: str, number: str | None) -> None:
    assert extracted(NUMBERS, reply) == number


@given(BEFORE, st.sampled_from(["", "-", "−"]), st.decimals(0, 10**7, places=2), AFTER)
def test_numbers_are_found_whole(before: str, sign: str, number: object, after: str) -> None:
    for spelled in (f"{number:,}", f"{number}", f"{number}".lstrip("0")):
        found = extracted(NUMBERS, f"{before}{sign}{spelled}{after}")
        assert found == sign + spelled
        assert same(NUMBERS, found, f"{'-' * bool(sign)}{number}")


@given(BEFORE, ENDS, HYPHENS, st.integers(0, 10**6))
def test_a_hyphen_after_something_is_no_sign(before: str, end: str, hyphen: str, last: int) -> None:
    assert extracted(NUMBERS, f"{before}{end}{hyphen}{last}") == str(last)


@given(st.text())
def test_whatever_is_found_is_a_number(text: str) -> None:
    found = extracted(NUMBERS, text)
    assert found is None or same(NUMBERS, found, found)


@pytest.mark.parametrize(
    ("pattern", "answer", "right"),
    [
        (r"answer is (\w+)", "Paris", ["Paris"]),
        (r"answer is (\w+)", "Paris\nParis, France", ["Paris", "Paris, France"]),
        (r"#### (.+)", "2 + 3 = 5\n5 * 2 = 10\n#### 10", ["10"]),
        (r"\d+", "7 apples", ["7"]),
        ("number", "about 7", ["7"]),
    ],
)
def test_what_is_right(pattern: str, answer: str, right: list[str]) -> None:
    task = Task("t", "T", {}, "match", "", answer="{{ a }}", extract=pattern)
    assert answers_of(task, {"a": answer}) == right


def test_no_number_is_no_answer() -> None:
    task = Task("t", "T", {}, "match", "", answer="{{ a }}", extract="number")
    with pytest.raises(StropError, match="no answer in"):
        answers_of(task, {"a": "none"})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5e-05", "0.00005"),
        ("about 1.5E+3.", "1,500"),
        ("2e−3", "0.002"),
        ("1e16", "10000000000000000"),
        ("9007199254740993", "9007199254740993.0"),
    ],
)
def test_numbers_of_all_sizes_are_what_they_say(text: str, number: str) -> None:
    found = extracted(NUMBERS, text)
    assert found is not None
    assert same(NUMBERS, found, number)


def test_large_numbers_that_differ_by_one_differ() -> None:
    assert not same(NUMBERS, "9007199254740993", "9007199254740992")


@pytest.mark.parametrize(
    ("text", "last"), [("3e", "3"), ("3 east", "3"), ("7e5x", "5"), ("8e", "8")]
)
def test_letters_after_a_number_are_no_exponent(text: str, last: str) -> None:
    assert extracted(NUMBERS, text) == last


def test_an_answer_that_the_data_writes_with_an_exponent() -> None:
    task = Task("t", "T", {}, "match", "", answer="{{ answer }}", extract="number")
    [right] = answers_of(task, {"answer": 0.00005})
    assert same(task, "0.00005", right)
    assert not same(task, "5", right)
