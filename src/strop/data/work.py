"""Work that takes long: kept in a directory beside its output until that is done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from strop.console import say
from strop.data.files import read_json, write_json
from strop.errors import StropError

PARTIAL = ".partial"  # what a killed process left behind, see strop.data.files
SETTINGS = "settings.json"  #: in the directory of the work: what it was made with


def begin_or_go_on(work: Path, settings: dict[str, Any]) -> None:
    """Make a directory for the work, or find there what was done with the same settings.

    What was done with others is cleared. Raises StropError for work of another `stage`, which may
    have cost money, and for what is no work of ours.
    """
    note = work / SETTINGS
    begun = work.is_dir() and any(path.suffix != PARTIAL for path in work.iterdir())
    if begun and not note.exists():
        raise StropError(f"{work} is in the way, and was not made by strop: remove it")
    found = read_json(note) if note.exists() else settings
    other = found.get("stage") if isinstance(found, dict) else None
    if other not in (None, settings["stage"]):
        raise StropError(
            f"{work} has what another command, strop {other}, has done so far: let that one "
            "finish, remove it, or name another output with -o"
        )
    if found != settings:
        say(f"{work} was made with other settings: starting anew")
        empty(work)
    elif note.exists():
        say(f"going on with what {work} holds")
    write_json(note, settings)


def nothing_done(work: Path) -> bool:
    """Tell whether the settings are all that the work holds."""
    return [path.name for path in work.iterdir()] == [SETTINGS]


def clear(work: Path) -> None:
    """Remove the work."""
    empty(work)
    shutil.rmtree(work)


def empty(work: Path) -> None:
    """Remove what the directory holds, which itself may be locked and so must stay.

    The settings go last, so that what is left is never taken for other work.
    """
    for path in sorted(work.iterdir(), key=lambda path: path.name == SETTINGS):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
