"""Settings in YAML files: those that come with a package, by name, and the user's own, by path."""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from strop.data.files import read_text
from strop.errors import StropError, unknown_name


def names_in(package: str, folder: str) -> tuple[str, ...]:
    """Return the names of the files that come with a package."""
    place = resources.files(package) / folder
    return tuple(sorted(one.name.removesuffix(".yaml") for one in place.iterdir()))


def read_named(
    name: str, package: str, folder: str, what: str, known: Collection[str], needed: Collection[str]
) -> tuple[str, dict[str, Any]]:
    """Return what a file is called and holds, by its name or, if it ends so, its path.

    Raises StropError for a name or a key that is not known, a key that is needed and missing, and
    for what is no YAML object.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        text, called = read_text(path), path.stem
    elif name in (names := names_in(package, folder)):
        place = resources.files(package) / folder / f"{name}.yaml"
        text, called = place.read_text(encoding="utf-8"), name
    else:
        raise unknown_name(f"{what} (or file.yaml)", name, names)
    try:
        found: Any = yaml.safe_load(text)
    # Dates that are none, tags that do not fit, great depth: PyYAML lets such errors through.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise StropError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise StropError(f"{name}: a {what} is an object")
    try:
        json.dumps(found, sort_keys=True, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise StropError(
            f"{name}: holds what JSON cannot (dates and keys that are numbers need quotes): {error}"
        ) from error
    for key in found:
        if key not in known:
            raise StropError(f"{name}: {unknown_name('key', str(key), known)}")
    for key in needed:
        if key not in found:
            raise StropError(f"{name}: a {what} needs {key}")
    return called, found
