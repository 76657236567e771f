"""Conversion of options: every type that a field may have."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from strop.data.document import Located, read_document
from strop.errors import StropError
from strop.lm import RemoteConfig
from strop.recipes.identity import identity
from strop.recipes.options import (
    FormatName,
    LanguageModelReference,
    ModelReference,
    TaskReference,
    TensorFormat,
    TextFile,
    TraineeReference,
    convert,
    decisive,
    inputs,
    label,
    plain,
    referred,
)


def value(text: str) -> Located:
    return read_document(text, lambda line: f"f:{line}")


@pytest.mark.parametrize(
    ("text", "hint", "expected"),
    [
        ("1", int, 1),
        ("1", float, 1.0),
        ("1e-3", float, 1e-3),
        ("'1'", str, "1"),
        ("true", bool, True),
        ("[a, b]", tuple[str, ...], ("a", "b")),
        ("{a: 1}", dict[str, float], {"a": 1.0}),
        ("null", int | None, None),
        ("3", int | None, 3),
        ("smollm2", ModelReference, "smollm2"),
        ("null", TextFile | None, None),
        ("bfp4", FormatName, "bfp4"),
        ("{a: keep, b: bfp8}", dict[str, TensorFormat], {"a": "keep", "b": "bfp8"}),
    ],
)
def test_values_take_the_type_of_their_field(text: str, hint: object, expected: object) -> None:
    found = convert(value(text), hint)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1.0", int),
        ("true", int),
        ("1", bool),
        ("1", str),
        ("nan", float),
        (".nan", float),
        ("'0.5'", float),
        ("a", tuple[str, ...]),
        ("[1]", tuple[str, ...]),
        ("null", int),
        ("keep", FormatName),
        ("{a: kepe}", dict[str, TensorFormat]),
    ],
)
def test_nothing_is_guessed(text: str, hint: object) -> None:
    with pytest.raises(StropError, match=r"^f:1: "):
        convert(value(text), hint)


@dataclass(frozen=True)
class Options:
    model: ModelReference
    text: TextFile | None = None
    names: tuple[str, ...] = ("a",)


def test_inputs_are_found_by_their_type() -> None:
    options = Options(ModelReference("${pack}"))
    assert inputs(options) == {"model": (ModelReference, "${pack}"), "text": (TextFile, None)}
    assert plain(options) == {"model": "${pack}", "text": None, "names": ["a"]}


@dataclass(frozen=True)
class Asking:
    tasks: tuple[TaskReference, ...]
    model: LanguageModelReference
    start: TraineeReference
    endpoint: RemoteConfig = field(default_factory=RemoteConfig)


def asking(*tasks: TaskReference) -> Asking:
    return Asking(tasks, LanguageModelReference("m"), TraineeReference("1M"))


def test_several_names_are_one_input() -> None:
    options = asking(TaskReference("boolq"), TaskReference("piqa"))
    kind, value = inputs(options)["tasks"]
    assert (kind, value) == (TaskReference, ("boolq", "piqa"))
    one, other, both = (identity(kind, names) for names in (("boolq",), ("piqa",), value))
    assert len({one, other, both}) == 3
    assert identity(kind, ("piqa", "boolq")) != both


def test_what_is_not_here_is_known_by_its_name() -> None:
    address = "https://host/v1#name"
    assert identity(LanguageModelReference, address) == address
    assert identity(TraineeReference, "1M") == "1M"
    with pytest.raises(StropError, match="unknown model"):
        identity(TraineeReference, "no such")


def test_how_an_endpoint_is_used_decides_nothing() -> None:
    slow = replace(asking(), endpoint=RemoteConfig(together=1))
    assert plain(slow)["endpoint"]["together"] == 1
    assert decisive(slow) == {"tasks": [], "model": "m", "start": "1M"}
    found = convert(value("{together: 1}"), RemoteConfig)
    assert found == slow.endpoint
    for bad in ("{together: 0}", "{together: 1.0}", "{togther: 1}", "[]"):
        with pytest.raises(StropError, match=r"^f:1: "):
            convert(value(bad), RemoteConfig)


def test_references_are_whole_values() -> None:
    assert referred("${pack}") == referred("${ pack }") == "pack"
    assert referred("${pack}/x") is None
    assert referred(None) is None
    assert [label(one) for one in ("${pack}", "a/b/", "smollm2")] == ["pack", "b", "smollm2"]
