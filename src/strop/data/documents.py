"""Documents of named domains: JSON lines, Parquet, text files, packages, and datasets of the hub.

    domains:
      news: news.jsonl                                # a column called text, or ...
      forum: {path: forum.parquet, column: body}      # ... another
      essays: {path: essays, files: "**/*.md"}        # each file of a folder is a document
      code: {package: email, files: "**/*.py"}        # the folder of an installed Python package
      web: {dataset: owner/name, subset: en, split: train}
    target: questions.jsonl                           # what the model is for; may be left out
    tokenizer: 2048                                   # tokens of a new one; or byte, or a model

Paths are relative to the file. Everything that is read is held in memory.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from strop.data.document import Located, read_document
from strop.data.files import read_text
from strop.errors import StropError, failed_import, unknown_name

KEYS = ("domains", "target", "tokenizer")
TOKENS = 2048  #: of a new tokenizer, if nothing is said


@dataclass(frozen=True)
class Source:
    """Where the documents of a domain are: a path, a package or a dataset."""

    path: str = ""  #: .jsonl, .parquet, another file, which is one document, or a folder
    package: str = ""  #: an installed Python package: its folder
    dataset: str = ""  #: for datasets.load_dataset
    subset: str = ""  #: of the dataset
    split: str = "train"  #: of the dataset
    column: str = "text"  #: that holds the text, in JSON lines, Parquet and datasets
    files: str = "**/*"  #: which files of a folder


@dataclass(frozen=True)
class Domains:
    """What a file of domains says."""

    sources: dict[str, Source]  #: by name, in the order of the file
    target: Source | None = None
    tokenizer: str = str(TOKENS)


@dataclass(frozen=True)
class Documents:
    """The documents of one source."""

    texts: list[str]
    rejected: list[dict[str, str]]  #: where and reason of each that was left out


def read_domains(path: Path) -> Domains:
    """Read a file of domains. Raises StropError with file and line for what it gets wrong."""
    document = read_document(read_text(path), lambda line: f"{path}:{line}")
    top: dict[str, Located] = document.expect(dict)
    for key, item in top.items():
        if key not in KEYS:
            raise item.error(str(unknown_name("key", key, KEYS)))
    if "domains" not in top or not top["domains"].expect(dict):
        raise document.error("needs domains, each with a name")
    folder = Path(path).parent
    named: dict[str, Located] = top["domains"].value
    sources = {name: read_source(item, folder) for name, item in named.items()}
    target = read_source(top["target"], folder) if "target" in top else None
    tokenizer = top.get("tokenizer", Located(TOKENS, str(path)))
    if type(tokenizer.value) not in (int, str):
        raise tokenizer.error("tokenizer must be a number of tokens, byte, or a model")
    return Domains(sources, target, str(tokenizer.value))


def read_source(item: Located, folder: Path) -> Source:
    """Read where one domain is."""
    if isinstance(item.value, str):
        item = Located({"path": item}, item.where)
    given: dict[str, Located] = item.expect(dict)
    fields = tuple(vars(Source()))
    for key, value in given.items():
        if key not in fields:
            raise value.error(str(unknown_name("key", key, fields)))
    source = Source(**{key: value.expect(str) for key, value in given.items()})
    places = [key for key in ("path", "package", "dataset") if getattr(source, key)]
    if len(places) != 1:
        raise item.error("needs a path, a package or a dataset, and only one of them")
    if source.path:
        try:
            source = replace(source, path=str(folder / Path(source.path).expanduser()))
        except RuntimeError as error:  # a user that there is none of
            raise item.error(f"cannot find {source.path}: {error}") from error
    return source


def read_documents(source: Source) -> Documents:
    """Read all documents of a source; those without text are left out with a reason.

    Raises StropError where there are none, and for a column that a file does not have.
    """
    found = Documents([], [])
    for where, text in documents(source):
        reason = "no text" if not isinstance(text, str) else "" if text.strip() else "empty"
        if reason:
            found.rejected.append({"where": where, "reason": reason})
        else:
            found.texts.append(text)
    if not found.texts:
        first = next((f" ({one['where']}: {one['reason']})" for one in found.rejected), "")
        raise StropError(f"{source.path or source.package or source.dataset}: no documents{first}")
    return found


def documents(source: Source) -> Iterator[tuple[str, Any]]:
    """Yield where each document is and its text, or what stands in its place."""
    if source.dataset:
        yield from of_dataset(source)
        return
    path = package_folder(source.package) if source.package else Path(source.path)
    if path.is_dir():
        try:
            files = sorted(path.glob(source.files))
        except (ValueError, NotImplementedError) as error:
            raise StropError(f"files: {source.files!r} is no pattern below a folder") from error
        yield from ((str(file), text_or_none(file)) for file in files if file.is_file())
        return
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "jsonl":
        yield from of_json_lines(path, source.column)
    elif kind == "parquet":
        yield from of_parquet(path, source.column)
    else:
        yield str(path), read_any_text(path)


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, which is not imported."""
    try:
        found = find_spec(name)
    except (ImportError, ValueError):  # a parent that is not there; an empty part of the name
        found = None
    if found is None or not found.submodule_search_locations:
        raise StropError(f"there is no installed package {name} with a folder")
    return Path(next(iter(found.submodule_search_locations)))


def text_or_none(path: Path) -> str | None:
    """Return the text of a file, None if it holds other things."""
    try:
        return read_any_text(path)
    except StropError:
        if path.exists():
            return None
        raise


def read_any_text(path: Path) -> str:
    """Read a UTF-8 file, also a compressed one (.gz)."""
    if path.suffix != ".gz":
        return read_text(path)
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StropError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise StropError(f"cannot read {path}: {error}") from error


def of_json_lines(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    """Yield the column of each line."""
    text = read_any_text(path).removeprefix("\ufeff")  # which some editors put before UTF-8
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield where, None
            continue
        if not isinstance(row, dict):
            yield where, None
            continue
        yield where, value_of(row, column, where)


def value_of(row: Mapping[str, Any], column: str, where: str) -> Any:
    """Return a column's value. Raises StropError with the names of those that there are."""
    if column not in row:
        known = ", ".join(row) or "none"
        raise StropError(f"{where}: no column '{column}': give column, one of {known}")
    return row[column]


def of_parquet(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    """Yield the column of each row."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise failed_import(error, ["pyarrow"], "mix") from error
    try:
        with ParquetFile(path) as file:
            names = dict.fromkeys(file.schema_arrow.names)
            value_of(names, column, str(path))
            number = 0
            for batch in file.iter_batches(columns=[column]):
                for value in batch.column(0):
                    number += 1
                    yield f"{path}: row {number}", value.as_py()
    except (OSError, pyarrow.ArrowException) as error:
        raise StropError(f"cannot read {path}: {' '.join(str(error).split())}") from error


def of_dataset(source: Source) -> Iterator[tuple[str, Any]]:
    """Yield the column of each row of a dataset."""
    try:
        import datasets
    except ImportError as error:
        raise failed_import(error, ["datasets"], "mix") from error
    name = source.dataset
    try:
        rows = datasets.load_dataset(name, source.subset or None, split=source.split)
    except Exception as error:  # whatever the library, the hub or the network raises
        raise StropError(f"cannot load dataset {name}: {error!r:.200}") from error
    value_of(dict.fromkeys(rows.column_names), source.column, name)
    for number, value in enumerate(rows[source.column], start=1):
        yield f"{name}: row {number}", value
