"""Strop makes small open language models smaller, better and faster, and measures every step."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strop.errors import StropError
    from strop.models.load import load
    from strop.models.torch_backend import wrap

    __version__: str

__all__ = ["StropError", "__version__", "load", "wrap"]

#: Public names and the modules that they are imported from when first asked for.
LAZY = {
    "StropError": "strop.errors",
    "load": "strop.models",
    "wrap": "strop.models.torch_backend",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that `import strop` itself costs nothing."""
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("strop")
    raise AttributeError(f"module 'strop' has no attribute '{name}'")
