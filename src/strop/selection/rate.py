"""Rate examples with a language model, by a rubric.

OUTPUT/rows.jsonl       the rows with their scores; a row without a grade has none
OUTPUT/ratings.jsonl    what the rater was asked and replied, in the order in which it was done
OUTPUT/rejected.jsonl   rows that could not be read
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from strop.console import progress, say
from strop.data import sha256_file, sha256_json, write_rows
from strop.data.instructions import (
    Instruction,
    read_instructions,
    report_unread,
    unique,
    with_scores,
)
from strop.data.journal import Journal
from strop.decoding import GREEDY
from strop.errors import StropFailure
from strop.lm import (
    FAILED,
    Answer,
    Failed,
    LanguageModel,
    RemoteConfig,
    RemoteModel,
    open_model,
)
from strop.selection.rubric import Rubric, expected_grade, open_rubric, parse_grade
from strop.stage import REJECTED, ROWS, Facts, rows_path, run_stage

RATINGS = "ratings.jsonl"
NUMERIC = "0123456789.,/"  #: what a number may go on after
#: The grade comes first and a line's end ends it; the same row has the same reply.
SAMPLING = replace(GREEDY, max_tokens=8, stop=("\n",))


def rate(
    data: Path,
    rater: str,
    output: Path,
    rubric: str = "accuracy",
    remote: RemoteConfig | None = None,
    limit: int = 0,
    work: Path | None = None,
) -> Facts:
    """Rate the rows of a file of instructions, or the first so many of them.

    Each reply is kept as it comes: who is killed goes on where he was. A reply without a grade
    leaves its row unrated, with the reason. Raises StropError for bad data, and StropFailure if
    nothing could be rated.
    """
    path, asked = rows_path(data, output), open_rubric(rubric)
    records = read_instructions(path)
    different = unique(records.rows, path)
    rows = different[: limit or None]
    model = open_model(rater, remote=remote)
    inputs = {"data": sha256_file(path), "rater": model.identity}
    settings = {"rubric": [asked.name, asked.hash], "limit": limit, "sampling": asdict(SAMPLING)}

    def make(directory: Path, place: Path) -> Facts:
        with Journal(place / RATINGS) as journal:
            ratings = rated(rows, model, asked, journal)
        report_unread(records, directory / REJECTED)
        write_rows(directory / RATINGS, (ratings[one.key] for one in rows))
        write_rows(directory / ROWS, (scored_row(one, ratings[one.key], asked) for one in rows))
        return {
            "rows": len(rows),
            "rejected": len(records.rejected),
            "repeated": len(records.rows) - len(different),
            **facts_of([ratings[one.key] for one in rows], asked, model),
        }

    def resume(facts: Facts) -> list[str]:
        failed = any(reason.startswith(FAILED) for reason in facts["unrated"])
        return [RATINGS] if failed and isinstance(model, RemoteModel) else []

    return run_stage("rate", output, settings, inputs, make, work, resume)


def rated(
    rows: Sequence[Instruction], model: LanguageModel, rubric: Rubric, journal: Journal
) -> dict[str, dict[str, Any]]:
    """Return the rating of each row by its key; those that the journal has are not asked again.

    Where an endpoint failed the row is asked again.
    """
    found = {row["key"]: row for row in journal.rows if not row["status"].startswith(FAILED)}
    left = [one for one in rows if one.key not in found]
    if done := len(rows) - len(left):
        say(f"{done} of {len(rows)} rows are rated already")
    prompts = [rubric.asked(one) for one in left]
    with progress("rating", len(left), "rows") as advance:
        for number, answer in model.generate(prompts, [SAMPLING] * len(left), rubric.grades):
            row = rating(left[number], answer, rubric) | {
                "prompt_hash": sha256_json(prompts[number]),
                "rater": model.identity,
            }
            journal.add(row)
            found[row["key"]] = row
            advance(1)
    return found


def rating(one: Instruction, answer: Answer | Failed, rubric: Rubric) -> dict[str, Any]:
    """Return what a rater said of a row."""
    if isinstance(answer, Failed):
        return {"key": one.key, "status": answer.status}
    grade, status = parse_grade(answer.text, rubric.lowest, rubric.highest)
    if grade is not None and answer.finish_reason == "length" and answer.text[-1] in NUMERIC:
        grade, status = None, "cut off in a number"  # of which more may have come
    expected, mass = expected_grade(answer.options, rubric.grades)
    return {
        "key": one.key,
        "status": status,
        "score": grade,
        "expected": expected,
        "mass": mass,
        "reply": answer.text,
        "tokens": [answer.prompt_tokens, answer.tokens],
    }


def scored_row(one: Instruction, rating: Mapping[str, Any], rubric: Rubric) -> dict[str, Any]:
    """Return a row with its scores: the grade in the reply, and the expected one."""
    scores = {rubric.name: rating.get("score"), f"{rubric.name}-expected": rating.get("expected")}
    return with_scores(one, scores)


def facts_of(ratings: Sequence[Mapping[str, Any]], rubric: Rubric, model: LanguageModel) -> Facts:
    """Count grades and failures. Raises StropFailure if there is neither grade nor expectation."""
    reasons = Counter(one["status"] for one in ratings)
    expected = [one["expected"] for one in ratings if one.get("expected") is not None]
    if not reasons["rated"] and not expected:
        said = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
        raise StropFailure(f"{model.name} rated nothing: {said}")
    grades = Counter(one["score"] for one in ratings if one["status"] == "rated")
    both = [
        (one["score"], one["expected"])
        for one in ratings
        if one["status"] == "rated" and one["expected"] is not None
    ]
    return {
        "rubric": rubric.name,
        "rated": reasons["rated"],
        "unrated": {name: count for name, count in reasons.items() if name != "rated"},
        "grades": {f"{grade:g}": grades[grade] for grade in sorted(grades)},
        "expected": len(expected),
        "expected_deciles": deciles(expected),
        "agreement": correlation(both),
        "mass": float(np.mean([one["mass"] for one in ratings if "mass" in one])),
        "tokens_read": sum(one["tokens"][0] for one in ratings if "tokens" in one),
        "tokens_written": sum(one["tokens"][1] for one in ratings if "tokens" in one),
    }


def spelled(facts: Mapping[str, Any]) -> str:
    """Say what came of a rating."""
    lines = [f"{facts['rated']} of {facts['rows']} rows rated by {facts['rubric']}"]
    if facts["unrated"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["unrated"].items())
        lines[0] += f"; unrated: {reasons}"
    if facts["repeated"]:
        lines.append(f"left out: {facts['repeated']} exact repeats of other rows")
    if facts["grades"]:
        most = max(facts["grades"].values())
        lines += [
            f"{grade:>5} {'█' * round(40 * count / most):<40} {count}"
            for grade, count in facts["grades"].items()
        ]
    if facts["expected"]:
        low, middle, high = (facts["expected_deciles"][place] for place in (0, 4, 8))
        lines.append(
            f"expected grade: median {middle:.2f}, four fifths from {low:.2f} to {high:.2f}; the "
            f"grades have {100 * facts['mass']:.0f}% of the first token's probability"
        )
    if facts["agreement"] is not None:
        lines.append(f"correlation of grade and expected grade: {facts['agreement']:.2f}")
    return "\n".join(lines)


def deciles(values: Sequence[float]) -> list[float]:
    """Return the nine values between tenths."""
    return np.quantile(values, np.arange(1, 10) / 10).tolist() if values else []


def correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return the correlation of two columns; None where one of them does not vary."""
    if len(pairs) < 3:
        return None
    a, b = np.array(pairs, dtype=np.float64).T
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else None
