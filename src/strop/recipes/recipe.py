"""Recipes: YAML files that name a list of typed stages.

    name: quickstart
    stages:
      - pack:
          model: smollm2
          format: bfp5
      - check:
          candidate: ${pack}
          against: smollm2

A stage is called by its kind, or by its option `name`; `${name}` is the output of an earlier one.
Every mistake is a StropError with the file, the line and the nearest name that would do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from strop.data import read_text
from strop.data.document import Located, read_document
from strop.errors import StropError, unknown_name
from strop.recipes.options import ALSO, INPUTS, build, inputs, plain, referred
from strop.recipes.stage import Stage

KEYS = {"name": str, "seed": int, "stages": list}  #: keys of a recipe and the type of each
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # a name becomes a directory


@dataclass(frozen=True)
class Step:
    """One stage of a recipe."""

    name: str  #: unique in the recipe
    kind: str  #: key of the table of stages
    options: Any  #: an instance of the kind's options


@dataclass(frozen=True)
class Recipe:
    """A recipe with every default filled in."""

    name: str  #: names the run directory
    seed: int  #: given to every stage
    steps: tuple[Step, ...]  #: in the order in which they run

    def to_yaml(self) -> str:
        """Return the resolved recipe as YAML, which reads back as an equal recipe."""
        stages = [{step.kind: {"name": step.name, **plain(step.options)}} for step in self.steps]
        value = {"name": self.name, "seed": self.seed, "stages": stages}
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


@dataclass(frozen=True)
class Draft:
    """A stage as it was written, before its options have types."""

    kind: str  #: key of the table of stages
    name: Located  #: its text
    options: dict[str, Located]  #: all but the name


def load_recipe(path: Path, kinds: Mapping[str, Stage], settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe for the table of stages `kinds`; `settings` override as "stage.key=value".

    Raises StropError with file and line for whatever the recipe gets wrong.
    """
    document = read_document(read_text(path), lambda line: f"{path}:{line}")
    top: dict[str, Located] = document.expect(dict)
    for key, item in top.items():
        if key not in KEYS:
            raise item.error(str(unknown_name("recipe key", key, KEYS)))
        item.expect(KEYS[key])
    if "stages" not in top or not top["stages"].value:
        raise document.error("a recipe needs a list of stages")
    name = top.get("name", Located(Path(path).stem, str(path)))
    check_directory_name(name)
    drafts = [draft(item, kinds) for item in top["stages"].value]
    for setting in settings:
        override(setting, drafts)
    steps: dict[str, Step] = {}
    for one in drafts:
        if one.name.value in steps:
            text = f"two stages are called '{one.name.value}': give one of them another 'name'"
            raise one.name.error(text)
        steps[one.name.value] = resolve_step(one, kinds, steps)
    seed = top["seed"].value if "seed" in top else 0
    if not 0 <= seed < 2**64:
        raise top["seed"].error(f"seed must be from 0 to 2**64 - 1, not {seed}")
    return Recipe(name.value, seed, tuple(steps.values()))


def draft(item: Located, kinds: Mapping[str, Stage]) -> Draft:
    """Read one item of the list of stages."""
    if isinstance(item.value, str):  # a stage without options: "- report"
        item = Located({item.value: Located(None, item.where)}, item.where)
    stage: dict[str, Located] = item.expect(dict)
    if len(stage) != 1:
        found = ", ".join(f"'{key}'" for key in stage)
        raise item.error(f"one stage for each '-', not {found}: indent the options further")
    [(kind, body)] = stage.items()
    if kind not in kinds:
        raise body.error(str(unknown_name("stage", kind, kinds)))
    given: dict[str, Located] = {} if body.value is None else dict(body.expect(dict))
    name = given.pop("name", Located(kind, body.where))
    check_directory_name(name)
    return Draft(kind, name, given)


def override(setting: str, drafts: Iterable[Draft]) -> None:
    """Put one "stage.key=value" into the options of its stage; the value is read as YAML."""
    target, equals, text = setting.partition("=")
    stage, dot, key = target.partition(".")
    where = f"--set {setting}"
    if not (equals and dot and key) or key == "name":
        raise StropError(f"{where}: write stage.option=value")
    named = {one.name.value: one for one in drafts}
    if stage not in named:
        raise StropError(f"{where}: {unknown_name('stage', stage, named)}")
    named[stage].options[key] = read_document(text, lambda _: where)


def resolve_step(one: Draft, kinds: Mapping[str, Stage], earlier: Mapping[str, Step]) -> Step:
    """Give the options of a stage their types and check its references to earlier stages."""
    what = f"stage '{one.kind}'"
    options = build(kinds[one.kind].options, one.options, one.name, what, also=("name",))
    for key, (kind, value) in inputs(options).items():
        place = one.options.get(key, one.name)
        name = referred(value)
        if name is None:
            if value is not None and "${" in value:
                raise place.error(f"{key}: '{value}': a reference is ${{stage}} and nothing else")
            continue
        if name not in earlier:
            known = f"{unknown_name('earlier stage', name, earlier)}" if earlier else "none so far"
            raise place.error(f"{key}: '{value}' must name an earlier stage: {known}")
        output = kinds[earlier[name].kind].output
        if output is None or output.type not in (kind, ALSO.get(kind)):
            raise place.error(f"{key}: stage '{name}' does not make a {INPUTS[kind]}")
    return Step(one.name.value, one.kind, options)


def check_directory_name(name: Located) -> None:
    """Raise StropError unless a name can be that of a directory."""
    if not NAME.fullmatch(name.expect(str, ": put it in quotes")):
        raise name.error(f"name '{name.value}': use letters, digits, '-' and '_'")
