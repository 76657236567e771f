"""YAML documents whose every value knows where it was written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import yaml

from strop.errors import StropError

NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "empty",
    list: "a list",
    dict: "a mapping of 'key: value' lines",
}


@dataclass(frozen=True)
class Located:
    """A value and its place."""

    value: Any  #: scalar, list of Located, or dict of text to Located
    where: str  #: "file:line" of the value, or of its key

    def error(self, message: str) -> StropError:
        """Build the error for this value."""
        return StropError(f"{self.where}: {message}")

    def expect(self, kind: type, hint: str = "") -> Any:
        """Return the bare value if it is of exactly this YAML type, else raise StropError."""
        if type(self.value) is kind:
            return self.value
        raise self.error(f"must be {NAMES[kind]}, not {spell(self.value)}{hint}")


def read_document(text: str, place: Callable[[int], str]) -> Located:
    """Parse one YAML document; `place` turns a line number, from 1, into the words of an error.

    Raises StropError for text that is not YAML, for a key given twice, for a value that contains
    itself and for tags that YAML's safe subset does not have.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        where = place(mark.line + 1 if mark else 1)
        raise StropError(f"{where}: not valid YAML: {problem}") from error
    except RecursionError as error:
        raise StropError(f"{place(1)}: nested too deep") from error
    if node is None:
        return Located(None, place(1))
    return locate(node, place, {})


def locate(node: yaml.Node, place: Callable[[int], str], seen: dict[int, Any]) -> Located:
    """Turn a node into its value; `seen` maps the nodes met before, for anchors and aliases."""
    where = place(node.start_mark.line + 1)
    if id(node) in seen:
        if seen[id(node)] is None:
            raise StropError(f"{where}: contains itself")
        return Located(seen[id(node)].value, where)
    seen[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        value: Any = locate_mapping(node, place, seen)
    elif isinstance(node, yaml.SequenceNode):
        value = [locate(one, place, seen) for one in node.value]
    else:
        value = scalar(node, where)
    seen[id(node)] = Located(value, where)
    return Located(value, where)


def locate_mapping(
    node: yaml.MappingNode, place: Callable[[int], str], seen: dict[int, Any]
) -> dict[str, Located]:
    """Turn a mapping into a dict whose values have the places of their keys."""
    items: dict[str, Located] = {}
    for key, value in node.value:
        where = place(key.start_mark.line + 1)
        if not isinstance(key, yaml.ScalarNode):
            raise StropError(f"{where}: a key must be text")
        if key.value in items:
            raise StropError(f"{where}: '{key.value}' is given twice")
        items[key.value] = replace(locate(value, place, seen), where=where)
    return items


def scalar(node: yaml.Node, where: str) -> Any:
    """Return the value of a scalar node."""
    try:
        value = yaml.SafeLoader("").construct_object(node)
        str(value).encode()  # "\ud800" is half a character
    except (yaml.YAMLError, ValueError) as error:
        problem = getattr(error, "problem", None) or str(error)
        raise StropError(f"{where}: not valid YAML: {problem}") from error
    except (LookupError, AttributeError) as error:  # !!bool x, !!timestamp x
        kind = node.tag.rpartition(":")[2]
        raise StropError(f"{where}: not valid YAML: not a {kind}: {spell(node.value)}") from error
    return value


def spell(value: object) -> str:
    """Spell a YAML value for an error."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)) or value is None:
        return NAMES[type(value)]
    text = str(value)
    return f"'{text if len(text) <= 40 else text[:37] + '...'}'"
