"""What a selection changed, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from strop.data.instructions import Instruction, shown
from strop.selection.scores import prompt_words, words

BORDER = 5  #: rows that are shown on either side of it
LETTERS = 160  #: of a row that is shown
QUANTILES = (0.1, 0.5, 0.9)


def report(
    rows: Sequence[Instruction],
    kept: Sequence[Instruction],
    dropped: Mapping[str, str],
    by: str,
    facts: Mapping[str, Any],
) -> str:
    """Write what was chosen beside what there was."""
    others = {"could not be read": facts["rejected"], "repeat others exactly": facts["repeated"]}
    left_out = " and ".join(f"{count:,} {what}" for what, count in others.items() if count)
    reasons = [[reason, f"{count:,}"] for reason, count in facts["dropped"].items()]
    parts = [
        "# Selection",
        f"{len(kept):,} of {len(rows):,} rows are kept, ranked by {by}.",
        *([f"Rows of the file that do not count: {left_out}."] if left_out else []),
        table(["dropped because", "rows"], reasons) if reasons else "Nothing was dropped.",
        "## Lengths and scores",
        table(["", "", "10%", "median", "90%", "mean"], distributions(rows, kept)),
        "A choice by score is often a choice by length: `strop trial` compares it with random "
        "rows, and with random rows of the same lengths.",
    ]
    if any(one.category for one in rows):
        header = ["category", "all", "kept", "share of all", "share of kept"]
        parts += ["## Categories", table(header, categories(rows, kept))]
    first = [one for one in rows if dropped.get(one.key) == "beyond the budget"]
    parts += ["## At the border", "The last that are kept:", *map(quoted, kept[-BORDER:])]
    if first:
        parts += ["Some that would have come next or later:", *map(quoted, first[:BORDER])]
    return "\n\n".join(parts) + "\n"


def distributions(rows: Sequence[Instruction], kept: Sequence[Instruction]) -> list[list[str]]:
    """Return the quantiles of lengths and scores, before and after."""
    columns: dict[str, Callable[[Instruction], float | None]] = {
        "words of the prompt": prompt_words,
        "words of the answer": words,
    }
    columns |= {name: score_of(name) for one in rows for name in one.scores}
    found = []
    for name, value in columns.items():
        for which, some in (("all", rows), ("kept", kept)):
            numbers = [number for one in some if (number := value(one)) is not None]
            if numbers:
                cells = [*np.quantile(numbers, QUANTILES), np.mean(numbers)]
                found.append([name, which, *(f"{cell:.4g}" for cell in cells)])
    return found


def score_of(name: str) -> Callable[[Instruction], float | None]:
    """Return the function that gives a score of a row, None if it has none."""
    return lambda one: one.scores.get(name)


def categories(rows: Sequence[Instruction], kept: Sequence[Instruction]) -> list[list[str]]:
    """Return how many rows of each category there were and are."""
    before, after = (Counter(one.category or "none" for one in some) for some in (rows, kept))
    return [
        [
            name,
            f"{count:,}",
            f"{after[name]:,}",
            f"{100 * count / len(rows):.1f}%",
            f"{100 * after[name] / len(kept):.1f}%",
        ]
        for name, count in before.most_common()
    ]


def quoted(one: Instruction) -> str:
    """Show the beginning of a row."""
    scores = ", ".join(f"{name} {value:.4g}" for name, value in one.scores.items())
    texts = [" ".join(text.split()) for text in (shown(one.prompt), one.completion)]
    short = [text if len(text) <= LETTERS else text[: LETTERS - 1] + "…" for text in texts]
    lines = [f"> {short[0]}", ">", f"> **→** {short[1]}", *([">", f"> {scores}"] if scores else [])]
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
