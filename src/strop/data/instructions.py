"""Instruction data: a prompt and an answer in each row, by the column names that people use.

prompt, completion                    as TRL and datasets have it
instruction, input, output            as Alpaca; input may be missing or empty
instruction, context, response        as Dolly
messages                              the last is the assistant's
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from strop.data.files import sha256_json
from strop.data.lines import BadRow, Records, read_rows_of, report_rejected
from strop.data.records import (
    Prompt,
    answer_of,
    example,
    is_finite,
)
from strop.errors import StropError

#: For each known form the columns of prompt, further input and answer
FORMS = (("instruction", "input", "output"), ("instruction", "context", "response"))


@dataclass(frozen=True)
class Instruction:
    """A prompt, its answer, and the row that they come from."""

    prompt: Prompt
    completion: str
    row: Mapping[str, Any] = field(default_factory=dict)  #: as it was read

    @cached_property
    def key(self) -> str:
        """Return the hash by which the row is known, wherever it stands."""
        return sha256_json([self.prompt, self.completion])

    @property
    def category(self) -> str | None:
        """Return what the column `category` says."""
        found = self.row.get("category")
        return None if found is None else str(found)

    @property
    def scores(self) -> Mapping[str, float]:
        """Return what the column `scores` says."""
        found: Mapping[str, float] = self.row.get("scores", {})
        return found


def read_instructions(path: Path) -> Records[Instruction]:
    """Read a file of instructions; rows that cannot be used come with their reasons.

    Raises StropError if no row is left.
    """
    return read_rows_of(path, instruction)


def report_unread(records: Records[Instruction], path: Path) -> None:
    """Write the rows of a file that cannot be used; say how many of all its rows they are."""
    report_rejected(records.rejected, len(records.rows) + len(records.rejected), path)


def instruction(row: Mapping[str, Any]) -> Instruction:
    """Build an instruction from whichever columns a row has."""
    check_scores(row)
    if "messages" in row:
        before, completion = answer_of(row["messages"], "messages")
        if not before:
            raise BadRow("messages have an answer and no prompt")
        return Instruction(before, completion, row)
    if "completion" in row:
        found = example(row)
        return Instruction(found.prompt, found.completion, row)
    for prompt, more, answer in FORMS:
        if prompt in row and answer in row:
            found = example({"prompt": joined(row, prompt, more), "completion": row[answer]})
            return Instruction(found.prompt, found.completion, row)
    have = ", ".join(row) or "none"
    raise BadRow(f"no prompt and completion, nor instruction and output: columns are {have}")


def check_scores(row: Mapping[str, Any]) -> None:
    """Raise BadRow unless the scores of a row are finite numbers by their names."""
    scores = row.get("scores", {})
    if not isinstance(scores, dict):
        raise BadRow("scores is not an object")
    for name, value in scores.items():
        if not is_finite(value):
            raise BadRow(f"the score {name} is no finite number")


def joined(row: Mapping[str, Any], prompt: str, more: str) -> str:
    """Return an instruction with the input that belongs to it."""
    texts = [row[prompt], row.get(more) or ""]
    for name, text in zip((prompt, more), texts, strict=True):
        if not isinstance(text, str):
            raise BadRow(f"{name} is not text")
    return "\n\n".join(text for text in texts if text.strip())


def shown(prompt: Prompt) -> str:
    """Return a prompt as text: several messages under the names of their roles."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{one['role'].capitalize()}: {one['content']}" for one in prompt)


def with_scores(one: Instruction, scores: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the row of an instruction with new scores; those that are None are taken out.

    So none stays that was found in another way by the same name.
    """
    every = {**one.scores, **scores}
    known = {name: value for name, value in every.items() if value is not None}
    return {**one.row, "scores": known}


def unique(rows: Sequence[Instruction], path: Path) -> list[Instruction]:
    """Return each different row once. Raises StropError for none."""
    found = {one.key: one for one in reversed(rows)}
    if not found:
        raise StropError(f"{path}: no rows")
    return [one for one in rows if found.get(one.key) is one]
