"""What an input is, whatever it is called: hashes over contents."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strop.data import read_text, sha256_file, sha256_json
from strop.recipes.options import ModelReference, TextFile


def identity(kind: Any, value: str | None) -> str:
    """Return a text that changes when the input changes, for a value of one of the input types.

    Raises StropError when there is no such model or file.
    """
    return IDENTITIES[kind](value)


def model_identity(reference: str | None) -> str:
    """Identify a model by the contents of its directory; fetches and converts it if need be."""
    from strop.models import resolve
    from strop.models.cache import known_sha256

    return "none" if reference is None else tree_hash(resolve(reference), known_sha256)


def text_identity(path: str | None) -> str:
    """Identify a text by its contents; no text means the default text, which Python brings."""
    if path is None:
        return f"documentation strings of Python {platform.python_version()}"
    return sha256_json(read_text(Path(path)))


def tree_hash(path: Path, digest: Callable[[Path], str] = sha256_file) -> str:
    """Return a hash of a file, or of the names and contents of all files below a directory."""
    if path.is_file():
        return digest(path)
    files = sorted(entry for entry in path.rglob("*") if entry.is_file())
    return sha256_json({str(file.relative_to(path)): digest(file) for file in files})


IDENTITIES = {ModelReference: model_identity, TextFile: text_identity}
