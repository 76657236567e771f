"""What a model is, whatever it is called: hashes over contents."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from strop.data import sha256_file, sha256_json
from strop.models.adapters import CONFIG, WEIGHTS, adapter_base, is_adapter
from strop.models.cache import known_sha256
from strop.models.references import resolve


def model_identity(reference: str) -> str:
    """Identify a model by the contents of its directory; fetches and converts it if need be.

    An adapter is identified together with its base. Raises StropError if there is no such model.
    """
    path = Path(reference).expanduser()
    if is_adapter(path):
        files = [known_sha256(path / name) for name in (CONFIG, WEIGHTS)]
        return sha256_json([model_identity(adapter_base(path)), *files])
    return tree_hash(resolve(reference), known_sha256)


def tree_hash(
    path: Path, digest: Callable[[Path], str] = sha256_file, ignored: Collection[str] = ()
) -> str:
    """Return a hash of a file, or of the names and contents of all files below a directory.

    Files of a name that is `ignored` do not count.
    """
    if path.is_file():
        return digest(path)
    files = sorted(one for one in path.rglob("*") if one.is_file() and one.name not in ignored)
    return sha256_json({str(file.relative_to(path)): digest(file) for file in files})
