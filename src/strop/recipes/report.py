"""The report of a run: Markdown to paste, and one HTML file to show.

Both are made from the recipe, the stages' metrics and outputs, and the environment in which they
ran. They hold no dates, memory readings or absolute paths, and no times but those that are results:
equal results give equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strop.data import write_text
from strop.recipes.options import inputs
from strop.recipes.recipe import Recipe
from strop.recipes.stage import Finished, Section, Stage

#: What a reader must know about a model to read its results, by alias.
CAVEATS = {
    "smollm2": (
        "The weights of smollm2 come from a GGUF file in which they already sit on a 4-bit grid "
        "(embedding: 8-bit), in blocks of 32. Results of packing it are not those of packing a "
        "model with full-precision weights. Its size before is that of the float32 weights that "
        "Strop reads; the GGUF file itself has 98.4 MB.",
        "SmolLM2-135M is a weak model: its answers are often wrong, and greedy answers loop. That "
        "is the model; judge a packed copy by its distance from the source.",
    ),
}


def write_report(
    recipe: Recipe, directory: Path, stages: Sequence[Finished], kinds: Mapping[str, Stage]
) -> None:
    """Write report.md and report.html into a run directory."""
    contents = gather(recipe, stages, kinds)
    for name in ("report.md", "report.html"):
        write_text(directory / name, render(f"{name}.j2", contents))


def sections(stages: Sequence[Finished], kinds: Mapping[str, Stage]) -> list[Section]:
    """Return one section for each kind of stage, in the order in which the kinds first ran."""
    found = dict.fromkeys(stage.kind for stage in stages)
    return [kinds[kind].section([one for one in stages if one.kind == kind]) for kind in found]


def gather(
    recipe: Recipe, stages: Sequence[Finished], kinds: Mapping[str, Stage]
) -> dict[str, Any]:
    """Collect what the templates show."""
    parts = sections(stages, kinds)
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "summary": " ".join(part.summary for part in parts if part.summary),
        "tiles": [tile for part in parts for tile in part.tiles],
        "headline": [row for part in parts for row in part.headline],
        "sections": parts,
        "stages": [
            (one.name, kinds[one.kind].describe(one.options), one.directory.name) for one in stages
        ],
        "environments": environments(stages),
        "caveats": caveats(stages, parts),
        "recipe": recipe.to_yaml(),
    }


def environments(stages: Sequence[Finished]) -> list[tuple[list[str], list[tuple[str, str]]]]:
    """Return the environments in which the stages ran, each with the names of its stages."""
    found: list[tuple[list[str], list[tuple[str, str]]]] = []
    for stage in stages:
        rows = environment_rows(stage.manifest["environment"])
        for names, known in found:
            if known == rows:
                names.append(stage.name)
                break
        else:
            found.append(([stage.name], rows))
    return found


def environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return an environment as labels and texts."""
    versions = [f"{name} {number}" for name, number in environment["versions"].items()]
    return [
        ("Processor", environment["processor"]),
        ("Instruction sets", " ".join(environment["instruction_sets"]) or "none of note"),
        ("Cores", str(environment["cores"])),
        ("Memory", f"{environment['memory_gb']} GB"),
        ("System", environment["system"]),
        ("Python", environment["python"]),
        ("Packages", ", ".join(versions)),
    ]


def caveats(stages: Sequence[Finished], parts: Sequence[Section]) -> list[str]:
    """Return the limits of the results: those of the models used, then those of the stages."""
    values = [value for one in stages for _, value in inputs(one.options).values()]
    named = [text for alias, texts in CAVEATS.items() if alias in values for text in texts]
    return [*named, *(text for part in parts for text in part.caveats)]


def render(template: str, contents: Mapping[str, Any]) -> str:
    """Fill one of the templates that lie beside this file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    jinja.filters |= {"cell": cell, "fenced": fenced}
    return jinja.get_template(template).render(contents)


def cell(text: str) -> str:
    """Make a text fit for a cell of a Markdown table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def fenced(text: str, language: str = "text") -> str:
    """Put a text into a Markdown code block that it cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
