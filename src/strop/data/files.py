"""Files that are either whole or not there, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from strop.errors import StropError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that takes its place when the block succeeds.

    The caller creates a file or a directory at the yielded path. On success it is flushed to disk
    and renamed over `target` (an existing directory is replaced); on any error, Ctrl-C included,
    it is removed. A process that dies leaves only a `.<name>.<random>.partial` entry behind, which
    the next call for the same target removes.
    """
    target = Path(target)
    make_directory(target.parent)
    for stale in target.parent.glob(f".{target.name}.*.partial"):
        remove(stale)
    holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    partial = holder / target.name
    try:
        yield partial
        flush(partial)
        if target.is_dir() and not target.is_symlink():
            # rename(2) does not replace a full directory: move the old one into the holder first.
            target.rename(holder / "replaced")
        partial.replace(target)
        synchronize(target.parent)
    finally:
        remove(holder)


def make_directory(path: Path) -> None:
    """Create `path` and its parents. Raises StropError if a file or a permission is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StropError(f"cannot create directory {path}: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise StropError(f"cannot write in directory {path}: permission denied")


def remove(path: Path) -> None:
    """Remove a file or a directory tree; what is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush a file, or each file of a directory tree, to disk."""
    for entry in [*path.rglob("*"), path] if path.is_dir() else [path]:
        synchronize(entry)


def synchronize(entry: Path) -> None:
    """Flush one file or one directory's list of names to disk."""
    descriptor = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with a final newline, atomically; NaN is an error."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file. Raises StropError if it is missing, unreadable or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StropError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise StropError(f"cannot read {path}: {error.strerror}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises StropError with file, line and column if it does not parse."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise StropError(f"{where}: not valid JSON: {error.msg}") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StropError(f"cannot read {path}: {error.strerror}") from error


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in a canonical spelling (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
