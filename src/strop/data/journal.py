"""Rows that are kept one by one as they are finished: who is killed loses none of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from strop.data.files import make_directory
from strop.errors import StropError


class Journal:
    """A file of JSON lines that only grows. Use it in a `with` block."""

    def __init__(self, path: Path) -> None:
        """Open the file, or go on with what is in it; a last line that was cut off is removed.

        Raises StropError for a damaged line before that.
        """
        make_directory(path.parent)
        self.rows: list[dict[str, Any]] = []  #: what was in the file
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            os.ftruncate(self.descriptor, whole)
            for number, line in enumerate(content[:whole].splitlines(), start=1):
                self.rows.append(parsed(line, f"{path}:{number}"))
        except BaseException:
            os.close(self.descriptor)
            raise

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is in the hands of the system when this returns."""
        data = (json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n").encode()
        while data:
            data = data[os.write(self.descriptor, data) :]

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.descriptor)


def parsed(line: bytes, where: str) -> dict[str, Any]:
    """Return the object of a line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise StropError(f"{where}: not JSON") from error
    if not isinstance(row, dict):
        raise StropError(f"{where}: not an object")
    return row
