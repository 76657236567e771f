"""What a stage is: a row of data that names its options, its work and its part of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Metrics = dict[str, Any]  #: JSON values without paths; repeatable, but for speeds


@dataclass(frozen=True)
class Context:
    """Where a stage works."""

    directory: Path  #: write outputs here; the directory appears in the run when the stage is done
    seed: int  #: the recipe's seed
    work: Path  #: for what long work keeps until it is done; stays if the run is killed


@dataclass(frozen=True)
class Output:
    """What `${stage}` stands for in the options of later stages."""

    path: str  #: relative to the stage's directory
    type: Any  #: the option type that it can be given to, such as `ModelReference`


@dataclass(frozen=True)
class Stage:
    """One kind of stage: a row of the table `STAGES`."""

    options: type[Any]  #: frozen dataclass; its fields are the keys of the YAML
    run: Callable[[Any, Context], Metrics]  #: calls one public function, returns its metrics
    describe: Callable[[Any], str]  #: what it does, in one line
    section: Callable[[Sequence[Finished]], Section]  #: report on all stages of this kind
    output: Output | None = None  #: what later stages can refer to


@dataclass(frozen=True)
class Finished:
    """A stage whose directory is complete."""

    name: str  #: unique in the recipe
    kind: str  #: key of the table `STAGES`
    options: Any  #: as in the recipe, references to earlier stages included
    directory: Path  #: `stages/<nn>-<name>` in the run directory
    metrics: Metrics  #: contents of metrics.json
    manifest: Mapping[str, Any]  #: contents of manifest.json
    executed: bool  #: False when the results of an earlier run were kept


@dataclass(frozen=True)
class Headline:
    """One row of the table at the top of the report."""

    measure: str  #: what was measured
    before: str  #: of the source; empty when the measure only exists for the change
    after: str  #: of the result
    change: str  #: with its interval where there is one
    reading: str  #: in plain words
    n: str = ""  #: independent samples behind the intervals; empty for what is exact


@dataclass(frozen=True)
class Tile:
    """A figure that is read first."""

    figure: str  #: the number, in a few characters
    meaning: str  #: what it is, in a few words


@dataclass(frozen=True)
class Table:
    """A table of text; the first column is the label of its row."""

    columns: tuple[str, ...]  #: headings
    rows: tuple[tuple[str, ...], ...]  #: as many cells as headings


@dataclass(frozen=True)
class Figure:
    """A plot."""

    caption: str  #: what it shows, with its units
    svg: str  #: one <svg> element that uses the classes of report.html.j2


@dataclass(frozen=True)
class Sample:
    """Texts side by side."""

    prompt: str  #: what all of them answer
    answers: tuple[tuple[str, str], ...]  #: (label, text)


@dataclass(frozen=True)
class Section:
    """The part of the report that belongs to one kind of stage."""

    title: str  #: heading
    summary: str  #: sentences for the opening paragraph; may be empty
    notes: tuple[str, ...] = ()  #: paragraphs that explain what is shown
    tiles: tuple[Tile, ...] = ()  #: at most one per stage
    headline: tuple[Headline, ...] = ()  #: rows of the table at the top
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    samples: tuple[Sample, ...] = ()
    caveats: tuple[str, ...] = ()  #: limits of what was measured
