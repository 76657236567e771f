"""Instructions of which a program can tell whether an answer follows them, as in IFEval.

A row names them in `instruction_id_list` and has their arguments in `kwargs`, an object for each,
so that IFEval's own data can be used. (Zhou et al. 2023, arXiv 2311.07911; what the paper leaves
open is as in its code, instruction_following_eval of google-research.) We differ where that needs a
model of language: response_language is left out, english_capital and english_lowercase look at the
case alone, `sentences` and `capital_words` have rules of their own. Keywords are no patterns.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from strop.errors import StropError, unknown_name

Arguments = Mapping[str, Any]  #: of one instruction, by name; None is for those it has not

RELATIONS = ("less than", "at least")
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def followed(
    text: str, instruction_ids: Sequence[str], arguments: Sequence[Arguments]
) -> list[bool]:
    """Tell of each instruction whether a text follows it; an empty text follows nothing.

    Raises StropError as `check_instructions` does.
    """
    check_instructions(instruction_ids, arguments)
    return [
        bool(text.strip()) and INSTRUCTIONS[name](text, *map(given.get, argument_names(name)))
        for name, given in zip(instruction_ids, arguments, strict=True)
    ]


def followed_loosely(
    text: str, instruction_ids: Sequence[str], arguments: Sequence[Arguments]
) -> list[bool]:
    """Tell of each instruction whether a text follows it, or would without what is around it.

    Tried are the text, the text without its first line, its last line and both, and each of these
    without asterisks. (Zhou et al. 2023, "loose".) Raises StropError as `check_instructions` does.
    """
    lines = text.split("\n")
    texts = [text, *("\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1]))]
    texts += [one.replace("*", "") for one in texts]
    tried = [followed(one, instruction_ids, arguments) for one in texts]
    return [any(one) for one in zip(*tried, strict=True)]


def check_instructions(instruction_ids: Sequence[str], arguments: Sequence[Arguments]) -> None:
    """Raise StropError for instructions of which nothing can be told.

    That is for an unknown id, for arguments that are missing, mistyped or of another instruction,
    and for lists of different lengths or without any.
    """
    lists = isinstance(instruction_ids, list | tuple) and isinstance(arguments, list | tuple)
    if not lists or not instruction_ids or len(instruction_ids) != len(arguments):
        raise StropError("instruction_id_list and kwargs must be lists, equally long and not empty")
    for name, given in zip(instruction_ids, arguments, strict=True):
        if not isinstance(name, str) or name not in INSTRUCTIONS:
            raise unknown_name("instruction", str(name), INSTRUCTIONS)
        if not isinstance(given, Mapping):
            raise StropError(f"{name}: its kwargs must be an object, not {given!r:.40}")
        names = argument_names(name)
        for argument, value in given.items():
            if value is not None and argument not in names:
                takes = ", ".join(names) or "no arguments"
                raise StropError(f"{name} takes {takes}, not '{argument}'")
        for argument in names:
            wanted, fits = ARGUMENTS[argument]
            value = given.get(argument)
            if not fits(value):
                found = "missing" if value is None else repr(value)
                raise StropError(f"{name}: {argument} must be {wanted}; it is {found:.40}")


def argument_names(name: str) -> list[str]:
    """Return the names of the arguments that an instruction needs."""
    return [*inspect.signature(INSTRUCTIONS[name]).parameters][1:]


def compares(count: int, number: int, relation: str) -> bool:
    """Tell whether a count is in a relation to a number."""
    return count < number if relation == "less than" else count >= number


def occurrences(text: str, part: str) -> int:
    """Count where a text has a part, in any case and also within words."""
    return text.lower().count(part.lower())


def has_word(text: str, word: str) -> bool:
    """Tell whether a text has a whole word, in any case."""
    return bool(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def capital_words(text: str) -> int:
    """Count words in capital letters; words are letters, digits, underscores and hyphens."""
    return sum(word.isupper() for word in re.findall(r"[\w-]+", text))


def sentences(text: str) -> int:
    """Count sentences: they end with . ! or ? before white space, maybe with quotes between.

    The rest is one too. Without a letter it is none, as the "1." of an item; "Mr. Poe" is two.
    """
    pieces = re.split(r"""[.!?]["'”’)\]*_]*\s""", text)
    return sum(any(map(str.isalpha, piece)) for piece in pieces)


def begins_paragraph(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Tell whether there are so many paragraphs, between blank lines, and the nth has this word."""
    pieces = text.split("\n\n")
    filled = sum(bool(piece.strip()) for piece in pieces)
    if filled != num_paragraphs or nth_paragraph > filled:
        return False
    begin = pieces[nth_paragraph - 1].split()[:1]  # IFEval numbers blank pieces, but counts none
    bare = [re.split("[.,?!'\"]", word.lstrip("'").lstrip('"'))[0].lower() for word in begin]
    return bare == [first_word.lower()]


def parts(text: str, divider: str) -> list[str]:
    """Return what is between dividers; nothing if a part is blank that has one on both sides."""
    found = [part.strip() for part in text.split(divider)]
    return [part for part in found if part] if all(found[1:-1]) else []


def has_postscript(text: str, postscript_marker: str) -> bool:
    """Tell whether a text has a marker, in any case, maybe with spaces after its dots."""
    pattern = re.escape(postscript_marker.strip()).replace(r"\.", r"\.\s?")
    return bool(re.search(pattern, text, re.IGNORECASE))


def bullets(text: str) -> int:
    """Count lines that begin with one asterisk or with a hyphen."""
    patterns = (r"^\s*\*[^*].*", r"^\s*-")
    return sum(len(re.findall(pattern, text, re.MULTILINE)) for pattern in patterns)


def highlights(text: str) -> int:
    """Count what is between single and double asterisks on a line and is not blank."""
    patterns = (r"\*([^*\n]*)\*", r"\*\*([^*\n]*)\*\*")
    return sum(bool(part.strip()) for one in patterns for part in re.findall(one, text))


def is_json(text: str) -> bool:
    """Tell whether a text is JSON, maybe in a Markdown fence."""
    inside = re.sub("^```(json|Json|JSON)?", "", text.strip()).removesuffix("```")
    try:
        json.loads(inside)
    except (ValueError, RecursionError):  # the latter for a thousand brackets
        return False
    return True


#: Tells of a text whether it follows; the other parameters are the arguments, by IFEval's names
INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda text, keywords: all(occurrences(text, one) for one in keywords),
    "keywords:frequency": lambda text, keyword, frequency, relation: compares(
        occurrences(text, keyword.strip()), frequency, relation
    ),
    "keywords:forbidden_words": lambda text, forbidden_words: (
        not any(has_word(text, word) for word in forbidden_words)
    ),
    "keywords:letter_frequency": lambda text, letter, let_frequency, let_relation: compares(
        occurrences(text, letter), let_frequency, let_relation
    ),
    "length_constraints:number_sentences": lambda text, num_sentences, relation: compares(
        sentences(text), num_sentences, relation
    ),
    "length_constraints:number_paragraphs": lambda text, num_paragraphs: (
        len(parts(text, "***")) == num_paragraphs
    ),
    "length_constraints:number_words": lambda text, num_words, relation: compares(
        len(re.findall(r"\w+", text)), num_words, relation
    ),
    "length_constraints:nth_paragraph_first_word": begins_paragraph,
    "detectable_content:number_placeholders": lambda text, num_placeholders: (
        len(re.findall(r"\[.*?\]", text)) >= num_placeholders
    ),
    "detectable_content:postscript": has_postscript,
    "detectable_format:number_bullet_lists": lambda text, num_bullets: bullets(text) == num_bullets,
    "detectable_format:constrained_response": lambda text: any(one in text for one in OPTIONS),
    "detectable_format:number_highlighted_sections": lambda text, num_highlights: (
        highlights(text) >= num_highlights
    ),
    "detectable_format:multiple_sections": lambda text, section_spliter, num_sections: (
        len(re.findall(re.escape(section_spliter.strip()) + r"\s?\d", text)) >= num_sections
    ),
    "detectable_format:json_format": is_json,
    "detectable_format:title": lambda text: any(
        title.strip("<>").strip() for title in re.findall("<<.+>>", text)
    ),
    "combination:two_responses": lambda text: (
        len(parts(text, "******")) == len(set(parts(text, "******"))) == 2
    ),
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": lambda text: bool(re.fullmatch(r'\s*".*"\s*', text, re.DOTALL)),
    "change_case:capital_word_frequency": lambda text, capital_frequency, capital_relation: (
        compares(capital_words(text), capital_frequency, capital_relation)
    ),
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "punctuation:no_comma": lambda text: "," not in text,
}

Kind = tuple[str, Callable[[Any], bool]]  #: what an argument must be, and whether a value is it

COUNT: Kind = ("a whole number from 1", lambda value: type(value) is int and value > 0)
TEXT: Kind = ("a text", lambda value: isinstance(value, str) and bool(value.strip()))
LETTER: Kind = ("one character", lambda value: TEXT[1](value) and len(value) == 1)
RELATION: Kind = (" or ".join(RELATIONS), lambda value: value in RELATIONS)
TEXTS: Kind = (
    "a list of texts",
    lambda value: isinstance(value, list) and bool(value) and all(map(TEXT[1], value)),
)

ARGUMENTS: dict[str, Kind] = {
    **dict.fromkeys(("frequency", "let_frequency", "capital_frequency"), COUNT),
    **dict.fromkeys(("num_words", "num_sentences", "num_paragraphs", "nth_paragraph"), COUNT),
    **dict.fromkeys(("num_bullets", "num_placeholders", "num_highlights", "num_sections"), COUNT),
    **dict.fromkeys(("keyword", "first_word", "postscript_marker", "section_spliter"), TEXT),
    **dict.fromkeys(("prompt_to_repeat", "end_phrase"), TEXT),
    **dict.fromkeys(("relation", "let_relation", "capital_relation"), RELATION),
    **dict.fromkeys(("keywords", "forbidden_words"), TEXTS),
    "letter": LETTER,
}

REQUESTS = ("Describe {}.", "Write a short note about {}.", "Tell a child about {}.")
TOPICS = """the sea; a farm; winter; bread; a library; cats; the moon; a market; rain; trains;
a garden; tea; a birthday; bees; the night sky; a school day; rivers; dogs; an old house; music;
a picnic; mountains; a lost key; clouds""".replace("\n", " ").split("; ")

#: A sentence of a prompt, an id and its arguments in order; those of different kinds (the part of
#: the id before the colon) can be followed together
DEMANDS: tuple[tuple[Any, ...], ...] = (
    ("Use {1} {0} words.", "length_constraints:number_words", 40, "at least"),
    ("Use {1} {0} words.", "length_constraints:number_words", 60, "less than"),
    ("Write {1} {0} sentences.", "length_constraints:number_sentences", 3, "at least"),
    ("Write {1} {0} sentences.", "length_constraints:number_sentences", 4, "less than"),
    ("Write {} paragraphs with *** between them.", "length_constraints:number_paragraphs", 2),
    ("Use small letters only.", "change_case:english_lowercase"),
    ("Use capital letters only.", "change_case:english_capital"),
    ("Make exactly {} bullet points with *.", "detectable_format:number_bullet_lists", 3),
    ("Give it a title, <<like this>>.", "detectable_format:title"),
    ("Put *asterisks* around a word.", "detectable_format:number_highlighted_sections", 1),
    ('Add a postscript that begins with "{}"', "detectable_content:postscript", "P.S."),
    ("Put double quotation marks around your answer.", "startend:quotation"),
    ('End with this sentence: "{}"', "startend:end_checker", "That is all I know."),
    ('Use the word "{0[0]}".', "keywords:existence", ["because"]),
    ('Do not use the word "{0[0]}".', "keywords:forbidden_words", ["very"]),
    ('Use the word "{0}" {2} {1} times.', "keywords:frequency", "people", 2, "at least"),
    ("Do not use commas.", "punctuation:no_comma"),
)


def written_instructions(count: int, seed: int) -> list[dict[str, Any]]:
    """Draw prompts of our own, all different, as rows of IFEval that a small model may follow.

    One or two instructions are as likely at first. Raises StropError for more than there are.
    """
    pairs = [
        (one, other)
        for one, other in combinations(DEMANDS, 2)
        if one[1].partition(":")[0] != other[1].partition(":")[0]
    ]
    every = [*product(REQUESTS, TOPICS, [*((one,) for one in DEMANDS), *pairs])]
    if not 0 < count <= len(every):
        raise StropError(f"there are 1 to {len(every)} written instructions, not {count}")
    alone = np.array([len(demands) == 1 for _, _, demands in every])
    chances = np.where(alone, 0.5 / alone.sum(), 0.5 / (~alone).sum())
    drawn = np.random.default_rng(seed).choice(len(every), count, replace=False, p=chances)
    return [written_row(*every[index]) for index in drawn]


def written_row(request: str, topic: str, demands: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Return a row that asks for a text about a topic, and something of the text."""
    asked = [sentence.format(*values) for sentence, _, *values in demands]
    return {
        "prompt": " ".join([request.format(topic), *asked]),
        "instruction_id_list": [name for _, name, *_ in demands],
        "kwargs": [
            dict(zip(argument_names(name), values, strict=True)) for _, name, *values in demands
        ],
    }
