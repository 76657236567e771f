"""What an input is, whatever it is called: hashes over contents."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from strop.data import read_text, sha256_file, sha256_json
from strop.models.identity import model_identity
from strop.recipes.options import (
    DomainsFile,
    MixtureFile,
    ModelReference,
    RankerReference,
    RowsFile,
    TextFile,
)


def identity(kind: Any, value: str | None) -> str:
    """Return a text that changes when the input changes, for a value of one of the input types.

    Raises StropError when there is no such model or file.
    """
    return IDENTITIES[kind](value)


def optional_model_identity(reference: str | None) -> str:
    """Identify a model, or that there is none."""
    return "none" if reference is None else model_identity(reference)


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


IDENTITIES = {
    ModelReference: optional_model_identity,
    TextFile: text_identity,
    RowsFile: rows_identity,
    RankerReference: ranker_identity,
    DomainsFile: domains_identity,
    MixtureFile: rows_identity,
}
