"""Values of a config.json, each checked before it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from strop.errors import StropError

TORCH_INSTEAD = "use the torch backend (--backend torch)"  #: ends errors that it helps with
LARGEST = 1 << 24  #: of any size; what is read here was made by anybody
SMALL, LARGE = 1e-30, 1e30  #: limits of any other number, which float32 holds, quotients too


class Fields:
    """The keys of a JSON object; every error names the file and the key."""

    def __init__(self, where: str, values: Mapping[str, Any], prefix: str = "") -> None:
        self.where = where
        self.values = values
        self.prefix = prefix  #: of the keys in errors, for an object inside another

    def error(self, key: str, problem: str) -> StropError:
        """Build the error for a key."""
        return StropError(f"{self.where}: {self.prefix}{key} {problem}")

    def unsupported(self, what: str) -> StropError:
        """Build the error for what only the torch backend runs."""
        return StropError(f"{self.where}: the native engine does not run {what}: {TORCH_INSTEAD}")

    def get(self, key: str, default: Any) -> Any:
        """Return a value; the default for a key that is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Return a whole number from `least` to `LARGEST`."""
        value = self.get(key, default)
        if type(value) is not int or not least <= value <= LARGEST:
            wanted = f"must be a whole number from {least} to {LARGEST}"
            raise self.error(key, f"{wanted}, not {value!r:.40}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number above zero, from `SMALL` to `LARGE`."""
        value = self.get(key, default)
        if type(value) not in (int, float) or not SMALL <= value <= LARGE:
            wanted = f"must be a number from {SMALL:g} to {LARGE:g}"
            raise self.error(key, f"{wanted}, not {value!r:.40}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r:.40}")
        return value

    def object(self, key: str) -> Fields:
        """Return a JSON object; an empty one for a key that is absent or null."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"must be an object, not {value!r:.40}")
        return Fields(self.where, value, f"{self.prefix}{key}.")
