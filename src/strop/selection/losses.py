"""How surprising answers are to a model: what the scores by losses are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strop.console import progress
from strop.data import Prompt
from strop.data.journal import Journal
from strop.lm import Failed, LocalModel, Scores

LOT = 32  #: answers that are given to the model together; alike ones are read together

Loss = float | str  #: of an answer, or why it has none


def mean_losses(
    model: LocalModel, pairs: Mapping[str, tuple[Prompt, str]], place: Path
) -> dict[str, Loss]:
    """Return the mean loss of a token of each answer to its prompt, by a key.

    Each is kept in a journal as it comes; what that has is not computed again.
    """
    with Journal(place) as journal:
        found = {row["key"]: of_journal(row) for row in journal.rows}
        left = [key for key in pairs if key not in found]
        with progress("scoring", len(left), "rows") as advance:
            for start in range(0, len(left), LOT):
                lot = left[start : start + LOT]
                for number, one in model.score([pairs[key] for key in lot]):
                    row = {"key": lot[number], **loss_or_reason(one)}
                    journal.add(row)
                    found[row["key"]] = of_journal(row)
                    advance(1)
    return found


def loss_or_reason(one: Scores | Failed) -> dict[str, Any]:
    """Return what is kept of an answer."""
    return {"failed": one.reason} if isinstance(one, Failed) else {"loss": one.loss}


def of_journal(row: Mapping[str, Any]) -> Loss:
    """Return what was kept of an answer."""
    return str(row["failed"]) if "failed" in row else float(row["loss"])
