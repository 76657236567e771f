"""Rows of sampled answers: what is in them, and which answers can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strop.data import Prompt
from strop.data.lines import BadRow
from strop.data.records import prompt_of as checked_prompt
from strop.errors import StropError


def check_samples(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raise StropError unless the rows are those of a sampling stage."""
    for number, row in enumerate(rows, start=1):
        for column in ("prompt", "candidates", "tokens", "finish"):
            if column not in row:
                raise StropError(f"{path}:{number}: no column '{column}': not rows of strop sample")
        if problem := unsound(row):
            raise StropError(f"{path}:{number}: {problem}: not rows of strop sample")
    if not rows:
        raise StropError(f"{path}: no rows")


def unsound(row: Mapping[str, Any]) -> str:
    """Return what is of another type than in rows of sampled answers, "" if nothing is."""
    try:
        checked_prompt(row["prompt"])
    except BadRow as error:
        return str(error)
    if not isinstance(row.get("reference", ""), str):
        return "reference is not text"
    answers = [row[column] for column in ("candidates", "tokens", "finish")]
    if not all(isinstance(one, list) for one in answers) or len({len(one) for one in answers}) > 1:
        return "candidates, tokens and finish are not lists of the same length"
    texts, tokens, finish = answers
    if not texts:
        return "no candidates"
    if not all(isinstance(one, str) for one in [*texts, *finish]):
        return "candidates and finish are not texts"
    if not all(isinstance(ids, list) and all(type(one) is int for one in ids) for ids in tokens):
        return "tokens are not lists of whole numbers"
    return ""


def every(row: Mapping[str, Any]) -> range:
    """Return the places of a row's candidates."""
    return range(len(row["candidates"]))


def prompt_of(row: Mapping[str, Any]) -> Prompt:
    """Return a row's prompt."""
    prompt = row["prompt"]
    return prompt if isinstance(prompt, str) else tuple(prompt)


def entering(row: Mapping[str, Any]) -> list[int]:
    """Return the candidates that are whole, not empty, and not equal to one before."""
    seen: set[str] = set()
    found = []
    for place in every(row):
        text = row["candidates"][place].strip()
        if row["finish"][place] in ("end", "stop") and text and text not in seen:
            seen.add(text)
            found.append(place)
    return found
