"""Rows of training data in JSON lines, by the ecosystem's column names (those of TRL and datasets).

    prompt, completion                     an example
    prompt, chosen, rejected, reference    a preference; the reference answer may be left out

A prompt is text, or a list of messages {"role", "content"}. An answer is text, or a list of
messages that ends with the assistant's; what comes before it is the prompt, if there is no other.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.data.files import sha256_json
from strop.data.lines import BadRow, Records, Row, read_lines
from strop.errors import StropError, unknown_name

Message = dict[str, str]  #: {"role": "system" | "user" | "assistant", "content": text}
Prompt = str | tuple[Message, ...]

ROLES = ("system", "user", "assistant")

#: Columns that preferences may have: what a stage before knows of the answers
OF_PREFERENCES = (
    "prompt",
    "reference",
    "chosen_tokens",
    "rejected_tokens",
    "chosen_value",
    "rejected_value",
)


@dataclass(frozen=True)
class Example:
    """A prompt and what should follow."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class Preference:
    """A prompt and two answers, of which people or a ranker prefer the first."""

    prompt: Prompt
    chosen: str
    rejected: str
    reference: str | None = None  #: an answer to learn to write, as by a person
    tokens: tuple[tuple[int, ...], tuple[int, ...]] | None = None  #: of both, as a model wrote them
    values: tuple[float, float] | None = None  #: how good both are, as a ranker says


@dataclass(frozen=True)
class Asked:
    """A prompt, and an answer that is known."""

    prompt: Prompt
    reference: str | None = None


def read_examples(path: Path, columns: Mapping[str, str] | None = None) -> Records[Example]:
    """Read examples; see `read_records`."""
    return read_records(path, ("prompt", "completion"), (), example, columns)


def read_preferences(path: Path, columns: Mapping[str, str] | None = None) -> Records[Preference]:
    """Read preferences; see `read_records`."""
    return read_records(path, ("chosen", "rejected"), OF_PREFERENCES, preference, columns)


def read_prompts(path: Path, columns: Mapping[str, str] | None = None) -> Records[Asked]:
    """Read the prompts of examples or preferences, or alone; see `read_records`.

    The reference answer is that of a preference, or the completion of an example.
    """
    others = ("completion", "chosen", "rejected", *OF_PREFERENCES[1:])
    return read_records(path, ("prompt",), others, asked, columns)


def read_records(
    path: Path,
    needed: Sequence[str],
    optional: Sequence[str],
    build: Callable[[dict[str, Any]], Row],
    columns: Mapping[str, str] | None = None,
) -> Records[Row]:
    """Read a file of JSON lines; rows that cannot be used come with their reasons.

    `columns` says what the file calls a column, where that is another name; other columns of the
    file are then ignored. Without it, one that is not known is an error. Raises StropError for
    that, for a missing column, and if no row is left.
    """
    known = (*needed, *optional)
    for name in columns or {}:
        if name not in known:
            raise unknown_name("column", name, known)

    def built(row: dict[str, Any], number: int) -> Row:
        return build(renamed(row, f"{path}:{number}", needed, optional, columns))

    return read_lines(path, built)


def renamed(
    row: Mapping[str, Any],
    where: str,
    needed: Sequence[str],
    optional: Sequence[str],
    columns: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the known columns of a row. Raises StropError for others, and for missing ones."""
    known = (*needed, *optional)
    if columns is None:
        for name in row:
            if name not in known:
                raise StropError(
                    f"{where}: {unknown_name('column', name, known)} (--columns says which "
                    "columns to read)"
                )
        columns = {}
    sources = {name: columns.get(name, name) for name in known}
    for name in needed:
        if sources[name] not in row:
            have = ", ".join(row) or "none"
            raise StropError(
                f"{where}: no column '{sources[name]}': it has {have} (say which is which with "
                f"--columns {name}=...)"
            )
    return {name: row[source] for name, source in sources.items() if source in row}


def example(row: Mapping[str, Any]) -> Example:
    """Build an example."""
    before, completion = answer_of(row["completion"], "completion")
    return Example(joined_prompt(row, before), completion)


def preference(row: Mapping[str, Any]) -> Preference:
    """Build a preference."""
    before, chosen = answer_of(row["chosen"], "chosen")
    other, rejected = answer_of(row["rejected"], "rejected")
    if before != other:
        raise BadRow("chosen and rejected answer different prompts")
    if chosen == rejected:
        raise BadRow("chosen and rejected are equal")
    values = both_of(row, "value", is_finite)
    tokens = both_of(row, "tokens", is_tokens)
    return Preference(
        prompt=joined_prompt(row, before),
        chosen=chosen,
        rejected=rejected,
        reference=reference_of(row, "reference"),
        tokens=tokens and (tuple(tokens[0]), tuple(tokens[1])),
        values=values and (float(values[0]), float(values[1])),
    )


def asked(row: Mapping[str, Any]) -> Asked:
    """Build a prompt with what is known to answer it."""
    known = "reference" if row.get("reference") is not None else "completion"
    return Asked(prompt_of(row["prompt"]), reference_of(row, known))


def reference_of(row: Mapping[str, Any], column: str) -> str | None:
    """Return an answer that may be missing."""
    return None if row.get(column) is None else answer_of(row[column], column)[1]


def both_of(
    row: Mapping[str, Any], what: str, test: Callable[[Any], bool]
) -> tuple[Any, Any] | None:
    """Return what is known of both answers, or None if nothing is known of either."""
    chosen, rejected = row.get(f"chosen_{what}"), row.get(f"rejected_{what}")
    if chosen is None and rejected is None:
        return None
    if not (test(chosen) and test(rejected)):
        raise BadRow(f"chosen_{what} and rejected_{what} are not both {what}")
    return chosen, rejected


def is_finite(value: Any) -> bool:
    """Tell whether a value is a number that a float can hold; whole numbers of JSON may be more."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def is_tokens(value: Any) -> bool:
    """Tell whether a value is a list of token ids."""
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def joined_prompt(row: Mapping[str, Any], before: tuple[Message, ...]) -> Prompt:
    """Return the prompt of a row; `before` is what came with the answer."""
    given = row.get("prompt")
    if given is None:
        if not before:
            raise BadRow("no prompt")
        return unanswered(before)
    prompt = prompt_of(given)
    if before and before not in (prompt, ({"role": "user", "content": prompt},)):
        raise BadRow("the prompt is not that of the answer")
    return prompt


def prompt_of(value: Any) -> Prompt:
    """Check a prompt."""
    if isinstance(value, list):
        return unanswered(messages_of(value, "prompt"))
    if not isinstance(value, str):
        raise BadRow("prompt is neither text nor messages")
    if not value.strip():
        raise BadRow("empty prompt")
    return checked_text(value, "prompt")


def unanswered(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Check that the messages of a prompt leave something to answer."""
    if messages[-1]["role"] == "assistant":
        raise BadRow("the prompt ends with the assistant's message: there is nothing to answer")
    return messages


def answer_of(value: Any, column: str) -> tuple[tuple[Message, ...], str]:
    """Return the messages before an answer, and its text."""
    before: tuple[Message, ...] = ()
    if isinstance(value, list):
        *others, last = messages_of(value, column)
        if last["role"] != "assistant":
            raise BadRow(f"{column} does not end with the assistant's message")
        before, value = tuple(others), last["content"]
    if not isinstance(value, str):
        raise BadRow(f"{column} is neither text nor messages")
    if not value.strip():
        raise BadRow(f"empty {column}")
    return before, checked_text(value, column)


def messages_of(value: Sequence[Any], column: str) -> tuple[Message, ...]:
    """Check messages."""
    if not value:
        raise BadRow(f"empty {column}")
    found = []
    for one in value:
        if not isinstance(one, dict) or not {"role", "content"} <= one.keys():
            raise BadRow(f"{column}: a message needs role and content")
        role, content = one["role"], one["content"]
        if role not in ROLES or not isinstance(content, str):
            raise BadRow(f"{column}: not a role and a text: {role!r:.40}")
        found.append({"role": role, "content": checked_text(content, column)})
    return tuple(found)


def checked_text(text: str, column: str) -> str:
    """Return text that is Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"{column} is not valid Unicode") from error
    return text


def prompt_key(prompt: Prompt) -> str:
    """Return the hash by which a prompt is known; it does not depend on where the row was.

    Text and a single message of the user are the same prompt.
    """
    if isinstance(prompt, str):
        return sha256_json(prompt)
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return sha256_json(prompt[0]["content"])
    return sha256_json(list(prompt))


def held_out(key: str, part: float, seed: int = 0) -> bool:
    """Tell whether what has this key belongs to the held-out part of all data.

    Decided by the key alone: rows with one prompt stay together, and other rows change nothing.
    """
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < part * 2**64
