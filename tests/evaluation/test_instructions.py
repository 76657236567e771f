"""Instructions that can be checked: what follows each and what does not, and prompts of our own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.errors import StropError
from strop.evaluation.instructions import (
    ARGUMENTS,
    INSTRUCTIONS,
    argument_names,
    check_instructions,
    followed,
    followed_loosely,
    written_instructions,
)

Row = dict[str, Any]

AT_LEAST, LESS = "at least", "less than"

#: The instructions that we know, with the names that IFEval gives their arguments
KNOWN = """
keywords:existence(keywords)
keywords:frequency(keyword, frequency, relation)
keywords:forbidden_words(forbidden_words)
keywords:letter_frequency(letter, let_frequency, let_relation)
length_constraints:number_sentences(num_sentences, relation)
length_constraints:number_paragraphs(num_paragraphs)
length_constraints:number_words(num_words, relation)
length_constraints:nth_paragraph_first_word(num_paragraphs, nth_paragraph, first_word)
detectable_content:number_placeholders(num_placeholders)
detectable_content:postscript(postscript_marker)
detectable_format:number_bullet_lists(num_bullets)
detectable_format:constrained_response()
detectable_format:number_highlighted_sections(num_highlights)
detectable_format:multiple_sections(section_spliter, num_sections)
detectable_format:json_format()
detectable_format:title()
combination:two_responses()
combination:repeat_prompt(prompt_to_repeat)
startend:end_checker(end_phrase)
startend:quotation()
change_case:capital_word_frequency(capital_frequency, capital_relation)
change_case:english_capital()
change_case:english_lowercase()
punctuation:no_comma()
"""

#: The end of an id, its arguments in the order above, and answers that follow and that do not
CASES: list[tuple[str, list[Any], list[str], list[str]]] = [
    ("existence", [["sun", "Sea"]], ["Sunny seas"], ["The sun"]),
    ("existence", [["c++"]], ["I use C++."], ["I use ccc."]),
    ("keywords:frequency", [" rock ", 2, AT_LEAST], ["Rock and rockets"], ["One rock"]),
    ("keywords:frequency", ["rock", 2, LESS], ["One rock"], ["Rock and rockets"]),
    ("forbidden_words", [["rock", "etc."]], ["Rockets", "etcetera"], ["Rock!", "Fish etc. here"]),
    ("letter_frequency", ["T", 2, AT_LEAST], ["That"], ["This"]),
    ("letter_frequency", ["#", 1, LESS], ["vote"], ["#vote"]),
    ("number_sentences", [2, AT_LEAST], ["One. Two", 'He: "no!" She', "Why?\nSo."], ["One."]),
    ("number_sentences", [2, LESS], ["It is 3.14 long...", "1. One 2. "], ["One. Two."]),
    ("number_paragraphs", [2], ["a\n***\nb", "***\na *** b ***"], ["a\n\nb", "a***b***c"]),
    ("number_paragraphs", [2], ["a***b"], ["a *** *** b"]),
    ("number_words", [3, AT_LEAST], ["It's 2", "one-two-three"], ["one, two"]),
    ("number_words", [3, LESS], ["a b"], ["a b c"]),
    ("nth_paragraph_first_word", [2, 2, "Night"], ["Day.\n\n 'night, it falls"], ["Night\n\nDay"]),
    ("nth_paragraph_first_word", [2, 2, "b"], ["a\n\nB. c"], ["a\nb", "a\n\nb\n\nc", "a\n\n\n\nb"]),
    ("nth_paragraph_first_word", [2, 3, "b"], [], ["a\n\nb", "a\n\n\n\nb"]),
    ("number_placeholders", [2], ["[name] [address]", "[a][b][c]"], ["[name", "[[name]]"]),
    ("postscript", ["P.S."], ["Bye. P.S. Write!", "Bye\np. s. write"], ["Bye", "PS: write"]),
    ("postscript", ["P.P.S"], ["Bye\nP.P.S write", "p. p. s. write"], ["Bye\nP.S. write"]),
    (
        "number_bullet_lists",
        [2],
        ["* a\n* b", "So:\n  - a\n*b"],
        ["* a", "* a\n* b\n- c", "a * b - c"],
    ),
    ("number_bullet_lists", [2], ["* a\n**no**\n* b"], ["**a**\n**b**"]),
    ("constrained_response", [], ["My answer is maybe."], ["Yes.", "my answer is yes."]),
    (
        "number_highlighted_sections",
        [2],
        ["*a* *b*", "**a** *b*"],
        ["**a** b", "*a* * *", "*a\nb* c*"],
    ),
    ("multiple_sections", ["Part", 2], ["Part 1\na\nPart 2\nb", "Part1 Part2 Part3"], ["Part 1"]),
    ("multiple_sections", ["Part", 2], ["Part 1 Part 1"], ["PART 1 PART 2", "Part one Part two"]),
    ("json_format", [], ['{"a": [1]}', '```json\n{"a": 1}\n```'], ["{'a': 1}", 'So: {"a": 1}']),
    ("json_format", [], ["```\n[]\n```"], ["[" * 100_000]),
    ("title", [], ["<<Sea>>\nWaves"], ["<Sea>", "<< >>", "<<Sea\n>>"]),
    ("two_responses", [], ["a\n******\nb"], ["a", "a******a", "a******b******c"]),
    ("two_responses", [], ["******a******b"], ["a****** ******b"]),
    ("repeat_prompt", ["Why is it? "], [" why is it? Because."], ["You ask: why is it?"]),
    ("end_checker", ["That is all."], ['"Yes. that is all."\n'], ["That is all. Bye"]),
    ("quotation", [], [' "a\nb" ', '""'], ['"a', "'a'", '"', '"a" he said']),
    ("capital_word_frequency", [2, AT_LEAST], ["I like NASA.", "BIG X-2"], ["Big NASA", "AN-AN"]),
    ("capital_word_frequency", [2, LESS], ["Big NASA"], ["BIG NASA"]),
    ("english_capital", [], ["HELLO, 2!"], ["HELLo", "12"]),
    ("english_lowercase", [], ["hello, 2!"], ["Hello", "12"]),
    ("no_comma", [], ["a; b"], ["a, b"]),
]


def instruction(end: str, values: list[Any]) -> tuple[list[str], list[Row]]:
    """Return lists of one instruction and its arguments."""
    (name,) = (name for name in INSTRUCTIONS if name.endswith(end))
    return [name], [dict(zip(argument_names(name), values, strict=True))]


def test_ids_and_names_are_those_of_ifeval() -> None:
    ours = {f"{name}({', '.join(argument_names(name))})" for name in INSTRUCTIONS}
    assert ours == set(KNOWN.split("\n")[1:-1])
    assert {one for name in INSTRUCTIONS for one in argument_names(name)} == ARGUMENTS.keys()
    assert {instruction(*case[:2])[0][0] for case in CASES} == INSTRUCTIONS.keys()


@pytest.mark.parametrize(("end", "values", "right", "wrong"), CASES)
def test_what_follows_and_what_does_not(
    end: str, values: list[Any], right: list[str], wrong: list[str]
) -> None:
    asked = instruction(end, values)
    assert [text for text in right if followed(text, *asked) != [True]] == []
    assert [text for text in wrong if followed(text, *asked) != [False]] == []


def test_instructions_are_told_one_by_one_in_their_order() -> None:
    names = ["punctuation:no_comma", "keywords:existence", "punctuation:no_comma"]
    arguments = [{}, {"keywords": ["b"], "letter": None}, {"num_words": None}]
    assert followed("a, b", names, arguments) == [False, True, False]
    assert followed("a; c", names, arguments) == [True, False, True]


@pytest.mark.parametrize("case", CASES)
def test_what_is_around_an_answer_does_not_count_loosely(
    case: tuple[str, list[Any], list[str], list[str]],
) -> None:
    asked = instruction(*case[:2])
    for text in case[2]:
        for framed in (text, f"Sure, OK:\n{text}", f"{text}\nBye, ROCK!", f"Sure\n{text}\nBye"):
            assert followed_loosely(framed, *asked) == [True]


def test_what_is_loosely_followed() -> None:
    lower, end = "change_case:english_lowercase", "startend:end_checker"
    phrase = {"end_phrase": "the end"}
    assert followed_loosely("**The end**", [lower, end], [{}, phrase]) == [False, True]
    assert followed_loosely("Yes\nthe *end*", [lower, end], [{}, phrase]) == [True, True]
    assert followed_loosely("Yes\nWell\nthe end", [lower], [{}]) == [False]
    assert followed_loosely("NO\nyes\nNO", [lower], [{}]) == [True]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="aB .!,*-#\n\"'<>[]{}(5é", max_size=40), st.sampled_from(CASES))
def test_any_text_can_be_told_and_what_follows_does_so_loosely(
    text: str, case: tuple[str, list[Any], list[str], list[str]]
) -> None:
    asked = instruction(*case[:2])
    (strict,), (loose,) = followed(text, *asked), followed_loosely(text, *asked)
    assert loose or not strict
    assert text.strip() or not loose


@given(st.text(alphabet="ab1_ .,-\n", min_size=1))
def test_words_are_those_of_a_plain_loop(text: str) -> None:
    parts = [letter if letter.isalnum() or letter == "_" else " " for letter in text]
    if words := "".join(parts).split():
        assert counts(text, "number_words", len(words))


@given(
    st.lists(st.sampled_from(["It is.", "Why?", 'He: "no!"', "(Yes.)", "On 2.5 m..."]), min_size=1)
)
def test_sentences_are_as_many_as_were_joined(some: list[str]) -> None:
    assert counts("\n".join(some), "number_sentences", len(some))
    assert counts(" ".join(some), "number_sentences", len(some))


def counts(text: str, end: str, count: int) -> bool:
    """Tell whether a text has at least so many and less than one more."""
    least, most = instruction(end, [count, AT_LEAST]), instruction(end, [count + 1, LESS])
    return followed(text, *least) == followed(text, *most) == [True]


@given(st.lists(st.sampled_from(["* a", "- b", "  * c", "d * e", "**f** g", "", "--"])))
def test_bullets_are_those_of_a_plain_loop(lines: list[str]) -> None:
    bare = [line.lstrip() for line in lines]
    count = sum(line[:1] == "-" or (line[:1] == "*" and line[1:2] != "*") for line in bare)
    for other in range(1, len(lines) + 2):
        asked = instruction("number_bullet_lists", [other])
        assert followed("\n".join(lines), *asked) == [other == count]


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        (["length_constraints:num_words"], [{}], "did you mean 'length_constraints:number_words'"),
        (["language:response_language"], [{"language": "kn"}], "unknown instruction"),
        ([3], [{}], "unknown instruction '3'"),
        (["punctuation:no_comma"], [], "equally long"),
        ([], [], "not empty"),
        ("punctuation:no_comma", [{}], "must be lists"),
        (["punctuation:no_comma"], [None], "must be an object, not None"),
        (["punctuation:no_comma"], [{"num_words": 3}], "takes no arguments, not 'num_words'"),
        (["keywords:existence"], [{"keyword": "a"}], "takes keywords, not 'keyword'"),
        (["keywords:existence"], [{"keywords": None}], "keywords must be .* it is missing"),
        (["keywords:existence"], [{"keywords": "sea"}], "must be a list of texts; it is 'sea'"),
        (["keywords:existence"], [{"keywords": []}], "must be a list of texts"),
        (["keywords:existence"], [{"keywords": ["a", 3]}], "must be a list of texts"),
        (["detectable_format:number_bullet_lists"], [{"num_bullets": "3"}], "whole number"),
        (["detectable_format:number_bullet_lists"], [{"num_bullets": True}], "whole number"),
        (["detectable_format:number_bullet_lists"], [{"num_bullets": 0}], "from 1; it is 0"),
        (["startend:end_checker"], [{"end_phrase": " "}], "must be a text"),
        (
            ["keywords:letter_frequency"],
            [{"letter": "ab", "let_frequency": 1, "let_relation": LESS}],
            "letter must be one character",
        ),
        (
            ["length_constraints:number_words"],
            [{"num_words": 1, "relation": "at most"}],
            "relation must be less than or at least; it is 'at most'",
        ),
    ],
)
def test_what_cannot_be_told_is_said_before_any_answer(
    names: Any, arguments: Any, message: str
) -> None:
    for check in (check_instructions, lambda *row: followed("", *row)):
        with pytest.raises(StropError, match=message):
            check(names, arguments)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(INSTRUCTIONS)),
    st.dictionaries(st.sampled_from(sorted(ARGUMENTS)), json_values, max_size=3) | json_values,
)
def test_any_arguments_are_checked_or_refused(name: str, arguments: Any) -> None:
    try:
        check_instructions([name], [arguments])
    except StropError:
        return
    assert followed("Some text.", [name], [arguments]) in ([True], [False])


#: In the order in which they are done: what makes a text follow an instruction
EDITS: dict[str, Callable[[str, Row], str]] = {
    "length_constraints:number_sentences": lambda text, given: more(text, f" {text}", given),
    "length_constraints:number_words": lambda text, given: more(text, " good", given),
    "length_constraints:number_paragraphs": lambda text, _: f"{text}\n***\n{text}",
    "detectable_format:number_highlighted_sections": lambda text, _: f"*good* {text}",
    "detectable_format:number_bullet_lists": lambda text, _: text + "\n* good" * 3,
    "detectable_format:title": lambda text, _: f"<<good>>\n{text}",
    "detectable_content:postscript": lambda text, _: f"{text}\nP.S. good",
    "startend:end_checker": lambda text, given: f"{text} {given['end_phrase']}",
    "startend:quotation": lambda text, _: f'"{text}"',
    "change_case:english_lowercase": lambda text, _: text.lower(),
    "change_case:english_capital": lambda text, _: text.upper(),
}


def more(text: str, added: str, given: Row) -> str:
    count = next(value for value in given.values() if value != given["relation"])
    return text + added * count if given["relation"] == AT_LEAST else text


def test_every_written_prompt_can_be_followed() -> None:
    for row in written_instructions(2000, seed=3):
        names, arguments = row["instruction_id_list"], row["kwargs"]
        asked = dict(zip(names, arguments, strict=True))
        text = "It is good because people like people."
        for name, edit in EDITS.items():
            text = edit(text, asked[name]) if name in asked else text
        assert followed(text, names, arguments) == [True] * len(names), (row, text)


def test_negative_control_an_answer_that_heeds_nothing_only_is_short() -> None:
    heeded = set()
    for row in written_instructions(2000, seed=4):
        names, arguments = row["instruction_id_list"], row["kwargs"]
        found = followed("Very well, then.", names, arguments)
        heeded |= {
            (name, given.get("relation"))
            for name, given, yes in zip(names, arguments, found, strict=True)
            if yes
        }
    assert heeded == {
        ("length_constraints:number_words", LESS),
        ("length_constraints:number_sentences", LESS),
    }


def test_written_prompts_are_drawn_by_the_seed_and_differ() -> None:
    rows = written_instructions(300, seed=1)
    assert rows == written_instructions(300, seed=1) == json.loads(json.dumps(rows))
    assert rows != written_instructions(300, seed=2)
    assert len({row["prompt"] for row in rows}) == 300
    sizes = Counter(len(row["kwargs"]) for row in rows)
    assert sizes.keys() == {1, 2}
    assert 110 <= sizes[1] <= 190
    assert all(row.keys() == {"prompt", "instruction_id_list", "kwargs"} for row in rows)


def test_written_prompts_say_what_is_asked() -> None:
    for row in written_instructions(300, seed=5):
        values = [value for arguments in row["kwargs"] for value in arguments.values()]
        said = [value[0] if isinstance(value, list) else str(value) for value in values]
        assert [one for one in said if one not in row["prompt"] and one != "1"] == []


def test_there_are_only_so_many_prompts() -> None:
    for count in (0, 10**6):
        with pytest.raises(StropError, match=f"written instructions, not {count}"):
            written_instructions(count, seed=0)
