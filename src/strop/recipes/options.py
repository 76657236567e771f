"""The options of a stage: from YAML values to the fields of a frozen dataclass."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

from strop.data.document import Located
from strop.errors import StropError, unknown_name
from strop.lm import RemoteConfig

ModelReference = NewType("ModelReference", str)  #: alias, directory, .gguf, hub id or ${stage}
LanguageModelReference = NewType("LanguageModelReference", str)  #: the same, or an endpoint
TraineeReference = NewType("TraineeReference", str)  #: a model, or the size of a new one
TextFile = NewType("TextFile", str)  #: a UTF-8 text file, or ${stage}
RowsFile = NewType("RowsFile", str)  #: a file of JSON lines, or ${stage}
RankerReference = NewType("RankerReference", str)  #: a directory with a ranker, or ${stage}
DomainsFile = NewType("DomainsFile", str)  #: YAML that names domains of text
MixtureFile = NewType("MixtureFile", str)  #: weights of domains, or ${stage}
TaskReference = NewType("TaskReference", str)  #: a task by name, or its YAML file
RubricReference = NewType("RubricReference", str)  #: a rubric by name, or its YAML file
LossName = NewType("LossName", str)  #: a loss for learning from preferences
FormatName = NewType("FormatName", str)  #: a number format, or two joined by a plus sign
BackendName = NewType("BackendName", str)  #: what computes: native or torch
TensorFormat = NewType("TensorFormat", str)  #: the same, or "keep" for a tensor left as it is

Named = str | tuple[str, ...] | None  #: the value of an option that names inputs

#: Types whose values name something outside the recipe, and what an error calls them.
INPUTS = {
    ModelReference: "model",
    LanguageModelReference: "model",
    TraineeReference: "model",
    TextFile: "text file",
    RowsFile: "file of rows",
    RankerReference: "ranker",
    DomainsFile: "file of domains",
    MixtureFile: "mixture",
    TaskReference: "task",
    RubricReference: "rubric",
}

#: Types that take the outputs of another type besides those of their own.
ALSO = {LanguageModelReference: ModelReference, TraineeReference: ModelReference}

Processes = NewType("Processes", int)  #: how many work at a time

#: Types of settings that say how a stage works, not what comes of it: their change runs nothing.
WORKING: dict[Any, str] = {RemoteConfig: "endpoint", Processes: "processes"}

REFERENCE = re.compile(r"\$\{\s*([^{}]*?)\s*\}")  # ${stage}
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # 1e-3: YAML 1.1 reads it as text


def known_plan(name: str) -> None:
    """Raise StropError unless it names a number format, or two joined by a plus sign."""
    from strop.models import Plan

    Plan.parse(name)


def known_tensor_format(name: str) -> None:
    """Raise StropError unless it names a number format, or is "keep"."""
    from strop.models import tensor_format

    tensor_format(name)


def known_backend(name: str) -> None:
    """Raise StropError unless it names a backend."""
    from strop.models import BACKENDS

    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)


def known_loss(name: str) -> None:
    """Raise StropError unless it names a loss."""
    from strop.tuning.losses import loss_settings

    loss_settings(name, {})


def known_task(name: str) -> None:
    """Raise StropError unless it names a task."""
    from strop.evaluation.tasks import open_task

    open_task(name)


def known_rubric(name: str) -> None:
    """Raise StropError unless it names a rubric."""
    from strop.selection.rubric import open_rubric

    open_rubric(name)


#: Types whose values can be checked before anything runs.
CHECKS: dict[Any, Callable[[str], None]] = {
    FormatName: known_plan,
    BackendName: known_backend,
    TensorFormat: known_tensor_format,
    LossName: known_loss,
    TaskReference: known_task,
    RubricReference: known_rubric,
}


def convert(item: Located, hint: Any) -> Any:
    """Return a YAML value as the type of a field; StropError says where it must be what instead."""
    if get_origin(hint) in (Union, types.UnionType):
        if item.value is None and type(None) in get_args(hint):
            return None
        return convert(item, next(one for one in get_args(hint) if one is not type(None)))
    if get_origin(hint) is tuple:
        return tuple(convert(one, get_args(hint)[0]) for one in item.expect(list))
    if get_origin(hint) is dict:
        return {key: convert(one, get_args(hint)[1]) for key, one in item.expect(dict).items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        what = WORKING.get(hint, hint.__name__.lower())
        return build(hint, item.expect(dict), item, what)
    value = convert_scalar(item, getattr(hint, "__supertype__", hint))
    if hint in CHECKS:
        try:
            CHECKS[hint](value)
        except StropError as error:
            raise item.error(str(error)) from error
    return value


def convert_scalar(item: Located, base: type) -> Any:
    """Return text, a number or a truth value as `base`; nothing is guessed but 1.0 from 1."""
    value = item.value
    if base is float:
        if type(value) is int or (isinstance(value, str) and EXPONENT.fullmatch(value)):
            value = float(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise item.error(f"must be a finite number, not '{value}'")
        return Located(value, item.where).expect(float)
    scalar = not isinstance(value, (list, dict)) and value is not None
    return item.expect(base, ": put it in quotes" if base is str and scalar else "")


def build(
    options: type[Any],
    given: Mapping[str, Located],
    place: Located,
    what: str,
    also: Collection[str] = (),
) -> Any:
    """Make the options of `what`, written at `place`; `also` are keys that others have read."""
    hints = field_types(options)
    for key, item in given.items():
        if key not in hints:
            raise item.error(str(unknown_name(f"option of {what}", key, [*hints, *also])))
    values = {}
    for key, item in given.items():
        named = dataclasses.replace(item, where=f"{item.where}: {key}")
        values[key] = convert(named, hints[key])
    for field in dataclasses.fields(options):
        if field.name not in values and not has_default(field):
            raise place.error(f"{what} needs the option '{field.name}'")
    try:
        return options(**values)
    except StropError as error:
        raise place.error(f"{what}: {error}") from error


def has_default(field: dataclasses.Field[Any]) -> bool:
    """Tell whether a field of a dataclass may be left out."""
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def field_types(options: type[Any]) -> dict[str, Any]:
    """Return the field names of an options dataclass with their types."""
    hints = get_type_hints(options)
    return {field.name: hints[field.name] for field in dataclasses.fields(options)}


def inputs(options: Any) -> dict[str, tuple[Any, Named]]:
    """Return the fields that name inputs of a stage, as name -> (type, value or values)."""
    found = {}
    for name, hint in field_types(type(options)).items():
        kind = next((one for one in (hint, *get_args(hint)) if one in INPUTS), None)
        if kind is not None:
            found[name] = (kind, getattr(options, name))
    return found


def referred(value: object) -> str | None:
    """Return the stage name in `${name}`, or None for any other value."""
    match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else None


def label(reference: str) -> str:
    """Return what a reader calls an input: a path by its last part, all else by its name."""
    return referred(reference) or reference.rstrip("/").rpartition("/")[2] or reference


def plain(options: Any) -> dict[str, Any]:
    """Return the options as YAML and JSON values."""
    values = dataclasses.asdict(options)
    return {key: list(one) if isinstance(one, tuple) else one for key, one in values.items()}


def decisive(options: Any) -> dict[str, Any]:
    """Return the options that decide what comes of a stage, as YAML and JSON values."""
    hints = field_types(type(options))
    return {key: one for key, one in plain(options).items() if hints[key] not in WORKING}
