"""Preference pairs of given lengths in tokens, cut from running text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from strop.models import Tokenizer


def write_pairs(tokenizer: Tokenizer, text: str, prompt: int, completion: int, path: Path) -> None:
    """Write six pairs whose parts have so many tokens; the completions' end token is one of them.

    Texts are used whose tokens are the same after decoding, alone and put together, so that every
    library sees equally many.
    """
    rows = []
    ids = tokenizer.encode(text, special=False)
    wanted = (prompt, completion - 1, completion - 1)
    for parts in pieces(ids, wanted):
        texts = [tokenizer.decode(part) for part in parts]
        same = all(
            tokenizer.encode(texts[0] + texts[other], special=False) == parts[0] + parts[other]
            for other in (1, 2)
        )
        if same:
            rows.append(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)))
        if len(rows) == 6:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pieces(ids: list[int], lengths: tuple[int, ...]) -> Iterator[list[list[int]]]:
    """Cut running tokens into consecutive parts of some lengths, again and again."""
    at = 0
    while at + sum(lengths) <= len(ids):
        parts = []
        for length in lengths:
            parts.append(ids[at : at + length])
            at += length
        yield parts
