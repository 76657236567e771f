"""The user's cache directory: what is fetched or computed once per machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strop.console import say
from strop.data import make_directory, read_json, sha256_file, sha256_json, write_json
from strop.errors import StropError


def cache_directory() -> Path:
    """Return `$STROP_CACHE`, else `$XDG_CACHE_HOME/strop`, else `~/.cache/strop`."""
    if chosen := os.environ.get("STROP_CACHE"):
        return Path(chosen).expanduser().absolute()
    if (parent := os.environ.get("XDG_CACHE_HOME")) and Path(parent).is_absolute():
        return Path(parent) / "strop"
    try:
        return Path.home() / ".cache" / "strop"
    except RuntimeError as error:
        raise StropError("no home directory to keep models in: set STROP_CACHE") from error


@contextmanager
def only_one(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`; a lock ends with the process that holds it."""
    make_directory(target.parent)
    with (target.parent / f"{target.name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that prepares {target}")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def known_sha256(path: Path) -> str:
    """Return the SHA-256 of a large file, computed once for as long as it is not touched."""
    try:
        path = path.resolve(strict=True)
        state = path.stat()
    except OSError as error:
        raise StropError(f"cannot read {path}: {error.strerror}") from error
    key = sha256_json([str(path), state.st_size, state.st_mtime_ns, state.st_ino])
    note = cache_directory() / "sha256" / f"{key}.json"
    if note.is_file():
        with suppress(StropError):  # what is damaged is computed anew
            known = read_json(note)
            if isinstance(known, str) and len(known) == 64:
                return known
    digest = sha256_file(path)
    # A cache that cannot be written only costs time.
    with suppress(StropError, OSError):
        write_json(note, digest)
    return digest


def fingerprint(paths: Iterable[Path]) -> str:
    """Return the SHA-256 over the names and contents of large files."""
    return sha256_json([[path.name, known_sha256(path)] for path in paths])
