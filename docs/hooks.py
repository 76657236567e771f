"""Writes the parts of the reference that follow from the code, when the site is built.

A line `<!-- write: NAME -->` in a page is replaced by what the function for NAME returns;
`<!-- write: NAME ARGUMENT -->` gives it an argument.
"""

from __future__ import annotations

import html
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import typer.main

MARK = re.compile(r"^<!-- write: (\w+)(?: (\S+))? -->$", re.MULTILINE)
MARKUP = re.compile(r"\[/?bold\]")  # rich's, in the help texts


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks of one page (called by mkdocs)."""
    return MARK.sub(lambda mark: WRITERS[mark[1]](*filter(None, [mark[2]])), markdown)


def commands() -> str:
    """Describe every command with its arguments and options."""
    from strop.cli.main import app

    return "\n\n".join(command("strop", typer.main.get_command(app)))


def command(name: str, one: Any) -> Iterator[str]:
    """Describe a command, or the commands of a group."""
    if hasattr(one, "commands"):
        for key, member in one.commands.items():
            yield from command(f"{name} {key}", member)
        return
    arguments = [spelled(each) for each in one.params if each.param_type_name == "argument"]
    yield f"## {name}"
    yield f"```text\n{' '.join([name, *arguments, '[OPTIONS]'])}\n```"
    yield from help_text(one.help or "")
    yield "\n".join(["| Argument or option | Meaning |", "|---|---|", *parameters(one)])


def help_text(text: str) -> Iterator[str]:
    """Turn the help of a command into Markdown: its indented lines are examples."""
    for paragraph in MARKUP.sub("**", inspect.cleandoc(text)).split("\n\n"):
        if paragraph.startswith(" "):
            yield f"```text\n{inspect.cleandoc(paragraph)}\n```"
        else:
            yield paragraph


def spelled(parameter: Any) -> str:
    """Return how a parameter is written: a placeholder, or its option names."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def parameters(one: Any) -> Iterator[str]:
    """Describe the parameters of a command, one row of a table each."""
    for parameter in one.params:
        if parameter.name == "help":
            continue
        default = None if parameter.default in (None, "") else parameter.default
        default = None if isinstance(default, bool) else default
        shown = getattr(parameter, "show_default", None)
        default = shown if isinstance(shown, str) else default
        tail = "" if default is None or parameter.required else f" Default: `{default}`."
        meaning = html.escape(parameter.help or "", quote=False).replace("|", "\\|")
        yield f"| `{spelled(parameter)}` | {meaning}{tail} |"


def stages() -> str:
    """Describe every kind of stage with its options."""
    from strop.recipes import STAGES

    parts = []
    for name, stage in STAGES.items():
        document = inspect.getdoc(stage.options) or ""
        parts += [f"## {name}", document, field_rows(stage.options)]
        if stage.output:
            parts.append(f"`${{{name}}}` in a later stage stands for its `{stage.output.path}`.")
    return "\n\n".join(parts)


def field_table(path: str) -> str:
    """Describe the fields of a dataclass, named as module.Class."""
    module, _, name = path.rpartition(".")
    return field_rows(getattr(importlib.import_module(module), name))


def field_rows(options: type[Any]) -> str:
    """Describe the fields of a dataclass, whose meanings are their `#:` comments."""
    owners = [one for one in options.__mro__ if is_dataclass(one)]  # some fields are inherited
    source = "".join(map(inspect.getsource, owners))
    rows = ["| Name | Default | Meaning |", "|---|---|---|"]
    for field in fields(options):
        above = rf"^    #: (.*)\n    {field.name}: "
        found = re.search(rf"^    {field.name}: [^#]*#: (.*)$|{above}", source, re.MULTILINE)
        if found is None:
            raise ValueError(f"{options.__name__}.{field.name} has no '#:' comment")
        meaning = html.escape(found[1] or found[2], quote=False).replace("|", "\\|")
        rows.append(f"| `{field.name}` | {default_of(field)} | {meaning} |")
    return "\n".join(rows)


def default_of(field: Any) -> str:
    """Spell the default of a field as YAML would."""
    if field.default is not MISSING:
        value = field.default
    elif field.default_factory is not MISSING:
        value = field.default_factory()
    else:
        return "required"
    if value is None or value in ((), {}):
        return "none"
    if is_dataclass(value):
        return f"`{type(value).__name__}()`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


WRITERS = {"commands": commands, "stages": stages, "fields": field_table}
