"""From a model reference to a model that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from strop.errors import unknown_name
from strop.models.interface import Model
from strop.models.references import resolve


def torch_backend(name: str, directory: Path) -> Model:
    """Run on transformers and PyTorch: any architecture, float32."""
    from strop.models.torch_backend import TorchModel

    return TorchModel(name, directory)


#: What can run a model; the first is the default.
BACKENDS: dict[str, Callable[[str, Path], Model]] = {"torch": torch_backend}


def load(reference: str, backend: str | None = None) -> Model:
    """Load a model by alias, directory, .gguf file or hub id.

    Raises StropError for an unknown reference or backend, and for files that are not a whole model.
    """
    name = next(iter(BACKENDS)) if backend is None else backend
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    return BACKENDS[name](reference, resolve(reference))
