"""From a model reference to a model that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from strop.data import read_json
from strop.errors import StropError, unknown_name
from strop.models.interface import Model
from strop.models.packed import is_packed
from strop.models.references import resolve


def native_backend(name: str, directory: Path, kv: str | None) -> Model:
    """Run packed weights on our own engine: fast, exact, without PyTorch."""
    from strop.models.native_backend import KV_FORMATS, NativeModel

    return NativeModel(name, directory, KV_FORMATS[0] if kv is None else kv)


def torch_backend(name: str, directory: Path, kv: str | None) -> Model:
    """Run on transformers and PyTorch: any architecture, float32."""
    if kv is not None:
        raise StropError("only the native backend chooses a format of keys and values: drop --kv")
    from strop.models.torch_backend import TorchModel

    return TorchModel(name, directory)


#: What can run a model.
BACKENDS: dict[str, Callable[[str, Path, str | None], Model]] = {
    "native": native_backend,
    "torch": torch_backend,
}


def load(reference: str, backend: str | None = None, kv: str | None = None) -> Model:
    """Load a model by alias, directory, .gguf file or hub id.

    `backend` is "native" (default for packed models, which is what it runs) or "torch" (for all
    others). `kv` is how the native backend keeps keys and values: "fp16" (default) or "bfp8".
    Raises StropError for an unknown reference or backend, for files that are not a whole model, and
    for what the backend does not run.
    """
    if backend is not None and backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    directory = resolve(reference)
    return BACKENDS[backend or default_backend(directory)](reference, directory, kv)


def default_backend(directory: Path) -> str:
    """Return the backend for a model directory: native if it is packed, torch otherwise."""
    config = read_json(directory / "config.json")
    return "native" if isinstance(config, dict) and is_packed(config) else "torch"
