"""Conversion of options: every type that a field may have."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from strop.data.document import Located, read_document
from strop.errors import StropError
from strop.recipes.options import (
    FormatName,
    ModelReference,
    TensorFormat,
    TextFile,
    convert,
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


def test_references_are_whole_values() -> None:
    assert referred("${pack}") == referred("${ pack }") == "pack"
    assert referred("${pack}/x") is None
    assert referred(None) is None
    assert [label(one) for one in ("${pack}", "a/b/", "smollm2")] == ["pack", "b", "smollm2"]
