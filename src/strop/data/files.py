"""Files that are either whole or not there, and their hashes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from strop.errors import StropError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  #: as fcntl.h and linux/fs.h of Linux have them


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that takes its place when the block succeeds.

    The caller creates a file or a directory at the yielded path. On success it is flushed to disk
    and renamed over `target`: a file replaces a file, a directory a directory, a link stays and
    what it leads to is replaced. On any error, Ctrl-C included, it is removed. A process that dies
    leaves only a `.<name>.<random>.partial` entry behind, which the next call for the same target
    removes. Raises StropError, naming the target, when it cannot be written (a full disk, say).
    """
    target = Path(target)
    try:
        place = Path(os.path.realpath(target))
    except ValueError as error:  # a null character in the name
        raise StropError(f"cannot write {str(target)!r}: {error}") from error
    make_directory(place.parent)
    if place.exists() and not (place.is_file() or place.is_dir()):
        raise StropError(f"cannot write {target}: is a device or a pipe, not a file")
    holder = place.parent / f".{place.name}.{secrets.token_hex(4)}.partial"
    lock = None
    try:
        remove_leftovers(place)
        lock = claim(holder)
        yield holder / place.name
        flush(holder / place.name)
        put(holder / place.name, place)
        synchronize(place.parent)
    except OSError as error:
        # A write that fails has no file name; other names are those of files that were read.
        names = [name for name in (error.filename, error.filename2) if name is not None]
        ours = not names or any(Path(os.fsdecode(name)).is_relative_to(holder) for name in names)
        if error.errno is None or not ours:
            raise
        raise StropError(f"cannot write {target}: {error.strerror}") from error
    finally:
        try:
            shutil.rmtree(holder, ignore_errors=True)
        except BaseException:  # Ctrl-C comes at any moment, this one too
            shutil.rmtree(holder, ignore_errors=True)
            raise
        finally:
            if lock is not None:
                os.close(lock)


def remove_leftovers(place: Path) -> None:
    """Remove what processes that died while they wrote `place` left beside it."""
    for stale in place.parent.glob(f".{glob.escape(place.name)}.*.partial"):
        remove_abandoned(stale)


def claim(holder: Path) -> int:
    """Create a directory and lock it, which says that it is in use; return the lock."""
    while True:
        holder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            lock = lock_directory(holder, fcntl.LOCK_EX)
            if holder.exists():
                return lock
            os.close(lock)
        # Another process took it for abandoned before it was locked: once more.


def remove_abandoned(holder: Path) -> None:
    """Remove what a process that died left behind, but nothing that a living one works in."""
    # A lock that is held means a living owner; what is gone, its owner has removed; what another
    # user left is his.
    with suppress(FileNotFoundError, BlockingIOError, PermissionError):
        lock = lock_directory(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            remove(holder)
        finally:
            os.close(lock)


def lock_directory(path: Path, operation: int) -> int:
    """Lock a directory; closing the descriptor that is returned ends it, as does dying."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def put(partial: Path, target: Path) -> None:
    """Rename `partial` over `target`.

    A directory that is not empty changes places with it; where that is not possible it steps aside,
    and for that moment there is none.
    """
    if partial.is_dir() != target.is_dir() and target.exists():
        kind = "directory" if target.is_dir() else "file"
        raise StropError(f"cannot write {target}: there is a {kind} of that name")
    aside = partial.parent / "replaced"
    try:
        while not (renamed(partial, target) or exchanged(partial, target)):
            with suppress(FileNotFoundError):  # another process may be replacing it as well
                target.rename(aside)
            if renamed(partial, target):
                return
            remove(aside)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise


def exchanged(partial: Path, target: Path) -> bool:
    """Let two paths change places at once; return False if that cannot be done here."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux, in glibc since 2.28
    if call is None:
        return False
    paths = [os.fsencode(path) for path in (partial, target)]
    return bool(call(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0)


def renamed(partial: Path, target: Path) -> bool:
    """Rename; return False if a full directory is in the way."""
    try:
        partial.replace(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


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
    inner = path.rglob("*") if path.is_dir() else ()
    for entry in [*inner, path]:
        if entry == path or not entry.is_symlink():  # links are kept by their directory
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
    """Write a value as indented JSON with a final newline, atomically.

    Raises StropError for what JSON files cannot hold: NaN, infinity and text that is not Unicode.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        text.encode()
    except ValueError as error:
        raise StropError(f"cannot write {path.name} as JSON: {error}") from error
    write_text(path, text)


def refuse_stream(path: Path) -> None:
    """Raise StropError for a pipe or a device: what is hashed is read twice, and it comes once."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise StropError(f"{path}: is a pipe or a device: write what it has to a file first")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file. Raises StropError if it is missing, unreadable or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StropError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise StropError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a null character in the name
        raise StropError(f"cannot read {str(path)!r}: {error}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises StropError with file, line and column if it does not parse."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise StropError(f"{where}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise StropError(f"{path}: not JSON that can be read: {error}") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    refuse_stream(Path(path))
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StropError(f"cannot read {path}: {error.strerror}") from error


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in a canonical spelling (sorted keys, no spaces).

    Raises StropError for half characters, which names of files have that are not UTF-8.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        bad = text[max(0, error.start - 20) : error.end]
        raise StropError(f"{bad!r}: a name or text that is not UTF-8: rename it") from error
