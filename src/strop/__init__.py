"""Strop makes small open language models smaller, better and faster, and measures every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strop.errors import StropError
    from strop.models import load

    __version__: str

__all__ = ["StropError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that `import strop` costs nothing."""
    if name == "load":
        from strop.models import load

        return load
    if name == "StropError":
        from strop.errors import StropError

        return StropError
    if name == "__version__":
        from importlib.metadata import version

        return version("strop")
    raise AttributeError(f"module 'strop' has no attribute '{name}'")
