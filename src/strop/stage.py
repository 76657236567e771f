"""A stage: what it makes, beside a manifest that says from what; done once, and resumed if killed.

OUTPUT/                 what the stage makes, and manifest.json; appears whole
OUTPUT.work/            until then: what has been done so far
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import strop
from strop.console import is_first, say
from strop.data import (
    atomic_path,
    begin_or_go_on,
    clear,
    make_directory,
    nothing_done,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from strop.data.files import lock_directory, remove_leftovers
from strop.data.work import SETTINGS
from strop.errors import StropError
from strop.models.environment import environment, peak_memory, reset_peak_memory

MANIFEST, ROWS, REJECTED = "manifest.json", "rows.jsonl", "rejected.jsonl"

Facts = dict[str, Any]  #: JSON values: what came of a stage


def run_stage(
    kind: str,
    output: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    make: Callable[[Path, Path], Facts],
    work: Path | None = None,
    resume: Callable[[Facts], Sequence[str]] = lambda facts: (),
) -> Facts:
    """Let `make(directory, work)` fill a directory that then becomes `output`; return its facts.

    Nothing is done if `output` was made with equal settings, from inputs of equal contents
    (`inputs` are hashes), and by this version. `work` is kept when a stage is killed, and the next
    call goes on with it; one that is given is the caller's to clear. `resume` says, by the facts of
    a finished output, which of its files to go on with in the work, because some answers are
    missing; none if it is done. If no more come, the output stays. Raises StropError if `output`
    holds something that is not of a stage.
    """
    plan = {
        "stage": kind,
        "settings": dict(settings),
        "inputs": dict(inputs),
        "strop": strop.__version__,
    }
    digest = sha256_json(plan)
    if output.resolve() == Path.cwd():
        raise StropError(f"{output}: is the directory that you are in: name another one with -o")
    kept = finished(output, kind)
    own = work is None
    work = output.parent / f"{output.name}.work" if work is None else work
    note = {"stage": kind, "sha256": digest}
    before: Sequence[str] = ()
    if kept is not None and kept["hash"] == digest and unchanged(output, kept):
        before = resume(kept["facts"])
        if not before:
            say(f"{output}: already done")
            if own and is_first():
                clear_leftovers(output, work, note)
            facts: Facts = kept["facts"]
            return facts
        say(f"{output}: rows without an answer are asked again")
    elif kept is not None:
        say(f"{output}: was made with other settings or from other inputs, and is made anew")
    if not is_first():  # the first process writes; training waits until it has begun
        with tempfile.TemporaryDirectory() as folder:
            return make(Path(folder), work)
    with only_one_in(work):
        begin_or_go_on(work, note)
        for name in before:
            if not (work / name).exists():
                with atomic_path(work / name) as copy:
                    shutil.copyfile(output / name, copy)
        try:
            with atomic_path(output) as partial:
                partial.mkdir(parents=True)
                facts = recorded(partial, plan | {"hash": digest}, lambda: make(partial, work))
        except StropError as error:
            if own and nothing_done(work):  # bad input, most likely
                clear(work)
            if not (kept and before):
                raise
            say(f"{output}: stays as it was: {error}")
            return dict(kept["facts"])
        if own:
            clear(work)
    return facts


def clear_leftovers(output: Path, work: Path, note: Mapping[str, str]) -> None:
    """Remove what is left of a process that was killed just after its output was whole."""
    remove_leftovers(Path(os.path.realpath(output)))
    with suppress(StropError):  # what is not ours stays, and who holds the lock clears it himself
        if (work / SETTINGS).is_file() and read_json(work / SETTINGS) == note:
            with only_one_in(work):
                clear(work)


@contextmanager
def only_one_in(work: Path) -> Iterator[None]:
    """Keep other processes out of a directory of work; the lock of one that died is void."""
    while True:
        make_directory(work)
        try:
            lock = lock_directory(work, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StropError(f"another process works in {work}: wait for it, or use -o") from error
        if is_at(work, lock):
            break
        os.close(lock)  # of one that another process was done with and has removed
    try:
        yield
    finally:
        os.close(lock)


def is_at(path: Path, descriptor: int) -> bool:
    """Tell whether a path still leads to what was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def recorded(partial: Path, plan: Facts, make: Callable[[], Facts]) -> Facts:
    """Let `make` fill a directory, and write the manifest of what it made and took."""
    reset_peak_memory()
    start = time.monotonic()
    facts = make()
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    manifest = {
        **plan,
        "facts": facts,
        "outputs": {str(path.relative_to(partial)): sha256_file(path) for path in files},
        "environment": environment(),
        "seconds": round(time.monotonic() - start, 3),
        "peak_memory_bytes": peak_memory(),
    }
    write_json(partial / MANIFEST, manifest)
    return facts


def finished(output: Path, kind: str) -> dict[str, Any] | None:
    """Return the manifest of what is there; StropError if that is no stage's, or another kind's."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    manifest = output / MANIFEST
    found = read_json(manifest) if manifest.is_file() else None
    keys = {"hash", "stage", "outputs", "facts"}
    if not isinstance(found, dict) or not keys <= found.keys() or found["stage"] != kind:
        raise StropError(f"{output}: is there, and was not made by this command: name another")
    return found


def unchanged(output: Path, manifest: Mapping[str, Any]) -> bool:
    """Tell whether a stage's files are as they were written."""
    return all(
        (output / name).is_file() and sha256_file(output / name) == digest
        for name, digest in manifest["outputs"].items()
    )


def rows_path(place: Path, output: Path | None = None) -> Path:
    """Return the file of rows that a stage's directory, or a path to a file, stands for.

    Raises StropError for a directory without one, and for rows in the output, which replaces them.
    """
    path = place / ROWS if place.is_dir() else place
    if place.is_dir() and not path.is_file():
        raise StropError(f"{place}: is a directory without {ROWS}, which a stage writes")
    if output is not None and path.resolve().is_relative_to(output.resolve()):
        raise StropError(f"{output}: holds the rows that are read: name another output with -o")
    return path
