"""Lines of JSON: objects that are written and read, with reasons for those that are of no use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from strop.console import say
from strop.data.files import read_text, refuse_stream, write_text
from strop.errors import StropError

Row = TypeVar("Row")

DEEPEST = 100  #: objects and lists in each other: Python reads deeper ones than it can write


@dataclass(frozen=True)
class Rejected:
    """A row that was left out."""

    line: int  #: in the file, from 1
    reason: str  #: in a few words
    row: Any  #: as it was read: an object, or the line itself


@dataclass(frozen=True)
class Records(Generic[Row]):
    """What a file holds."""

    rows: list[Row]
    lines: list[int]  #: of the rows, in their files, from 1
    rejected: list[Rejected]

    def located(self, rejected: Iterable[Rejected]) -> list[Rejected]:
        """Give rows that were left out, numbered from 1 among `rows`, their lines."""
        return [replace(one, line=self.lines[one.line - 1]) for one in rejected]


class BadRow(ValueError):
    """A row that cannot be used; says why in a few words."""


def read_rows_of(path: Path, build: Callable[[dict[str, Any]], Row]) -> Records[Row]:
    """Read a file of JSON lines whose rows may have any columns; see `read_records`.

    They are written again as they were: one that cannot be is left out.
    """

    def built(row: dict[str, Any], _: int) -> Row:
        found = build(row)
        check_writable(row)
        return found

    return read_lines(path, built)


def read_lines(path: Path, build: Callable[[dict[str, Any], int], Row]) -> Records[Row]:
    """Read a file of JSON lines; `build` takes an object and the number of its line."""
    rows: list[Row] = []
    lines: list[int] = []
    rejected: list[Rejected] = []
    refuse_stream(path)
    text = read_text(path).removeprefix("\ufeff")  # which some editors put before UTF-8
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            rejected.append(Rejected(number, "not JSON", line))
            continue
        if line.count("[") + line.count("{") > DEEPEST and depth(row) > DEEPEST:
            rejected.append(Rejected(number, "nested too deeply", line))
            continue
        if not isinstance(row, dict):
            rejected.append(Rejected(number, "not an object", row))
            continue
        try:
            rows.append(build(row, number))
            lines.append(number)
        except BadRow as error:
            rejected.append(Rejected(number, str(error), row))
    if not rows:
        first = f" (line {rejected[0].line}: {rejected[0].reason})" if rejected else ""
        raise StropError(f"{path}: no row that can be used{first}")
    return Records(rows, lines, rejected)


def depth(value: Any) -> int:
    """Return how many objects and lists lie in each other."""
    found, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        found += 1
        level = [
            inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return found


def check_writable(row: Mapping[str, Any]) -> None:
    """Raise BadRow for what can be read and not be written: 1e999, half a character."""
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise BadRow("has what cannot be written as JSON") from error


def refuse_constant(name: str) -> None:
    """Raise ValueError for NaN and infinity, which are not JSON."""
    raise ValueError(name)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSON lines, atomically."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_text(path, "".join(lines))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read what `write_rows` wrote. Raises StropError with the line of a damaged object."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line:
            try:
                row = json.loads(line, parse_constant=refuse_constant)
            except (ValueError, RecursionError) as error:
                raise StropError(f"{path}:{number}: not JSON") from error
            if not isinstance(row, dict):
                raise StropError(f"{path}:{number}: not an object")
            rows.append(row)
    return rows


def report_rejected(rejected: Sequence[Rejected], total: int, path: Path) -> None:
    """Write the rows that were left out, with reasons, and say how many there are of each."""
    if not rejected:
        path.unlink(missing_ok=True)
        return
    counts: dict[str, int] = {}
    for one in rejected:
        counts[one.reason] = counts.get(one.reason, 0) + 1
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    # Escaped: what is rejected may not be Unicode.
    write_text(path, "".join(json.dumps(vars(one)) + "\n" for one in rejected))
    # The directory has another parent until its stage is done.
    place = f"{path.parent.name}/{path.name}"
    say(f"{len(rejected)} of {total} rows left out: {reasons} ({place})")
