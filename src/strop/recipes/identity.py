"""What an input is, whatever it is called: hashes over contents."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strop.data import read_text, sha256_file, sha256_json
from strop.lm.remote import is_address
from strop.models.identity import model_identity
from strop.recipes.options import (
    DomainsFile,
    LanguageModelReference,
    MixtureFile,
    ModelReference,
    Named,
    RankerReference,
    RowsFile,
    RubricReference,
    TaskReference,
    TextFile,
    TraineeReference,
)


def identity(kind: Any, value: Named) -> str:
    """Return a text that changes when the input changes, for a value of one of the input types.

    Several inputs have one. Raises StropError when there is no such model or file.
    """
    if isinstance(value, tuple):
        return sha256_json([IDENTITIES[kind](one) for one in value])
    return IDENTITIES[kind](value)


def optional_model_identity(reference: str | None) -> str:
    """Identify a model, or that there is none."""
    return "none" if reference is None else model_identity(reference)


def language_model_identity(reference: str | None) -> str:
    """Identify a model as above, an endpoint by its address: what is behind it is not known."""
    if reference is not None and is_address(reference):
        return reference
    return optional_model_identity(reference)


def trainee_identity(model: str) -> str:
    """Identify what training begins with: a model, or the size of a new one."""
    from strop.mixing.jobs import start_identity

    return start_identity(model)


def text_identity(path: str | None) -> str:
    """Identify a text by its contents; no text means the default text, which Python brings."""
    if path is None:
        return f"documentation strings of Python {platform.python_version()}"
    return sha256_json(read_text(Path(path)))


def rows_identity(path: str | None) -> str:
    """Identify rows by the contents of their file."""
    return "none" if path is None else sha256_file(Path(path))


def ranker_identity(path: str | None) -> str:
    """Identify a ranker by the contents of its directory, and its base."""
    from strop.tuning.origins import ranker_hash

    if path is None:
        return "none"
    return ranker_hash(Path(path))


def domains_identity(path: str | None) -> str:
    """Identify domains by all texts that they name."""
    from strop.training.corpus import domains_hash

    return "none" if path is None else domains_hash(Path(path))


def task_identity(name: str) -> str:
    """Identify a task by what it asks, and by the file of rows that it may name."""
    from strop.evaluation.tasks import open_task

    task = open_task(name)
    rows = task.data.get("path")
    return sha256_json([task.hash, rows and sha256_file(task.folder / str(rows))])


def rubric_identity(name: str) -> str:
    """Identify a rubric by what it asks, and by its name, which its scores are called by."""
    from strop.selection.rubric import open_rubric

    rubric = open_rubric(name)
    return sha256_json([rubric.name, rubric.hash])


IDENTITIES: dict[Any, Callable[[Any], str]] = {
    ModelReference: optional_model_identity,
    LanguageModelReference: language_model_identity,
    TraineeReference: trainee_identity,
    TextFile: text_identity,
    RowsFile: rows_identity,
    RankerReference: ranker_identity,
    DomainsFile: domains_identity,
    MixtureFile: rows_identity,
    TaskReference: task_identity,
    RubricReference: rubric_identity,
}
