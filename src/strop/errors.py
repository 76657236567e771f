"""The errors that a user sees as one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class StropError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do. Exit code 2."""

    exit_code = 2


class StropFailure(StropError):
    """The input was fine and the work failed all the same. Exit code 1."""

    exit_code = 1


def unknown_name(kind: str, name: str, known: Iterable[str]) -> StropError:
    """Build the error for an unknown `kind` called `name`, naming the nearest of `known`."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return StropError(f"unknown {kind} '{name}': did you mean '{near[0]}'?")
    return StropError(f"unknown {kind} '{name}': choose from {', '.join(names)}")


def missing_extra(package: str, extra: str) -> StropError:
    """Build the error for a package that is only installed with the extra named `extra`."""
    return StropError(f"this needs {package}: install it with  pip install 'strop[{extra}]'")


def failed_import(error: ImportError | OSError, modules: Sequence[str], extra: str) -> StropError:
    """Build the error for a failed import of modules that come with the extra named `extra`.

    Only if one of them itself was not found is it not installed; else the cause is named.
    """
    names = " and ".join(modules)
    if isinstance(error, ModuleNotFoundError) and error.name in modules:
        return missing_extra(names, extra)
    cause = " ".join(str(error).split()) or type(error).__name__
    return StropFailure(
        f"importing {names} failed: {cause}: install what it lacks, or all of it again with  "
        f"pip install --force-reinstall 'strop[{extra}]'"
    )
