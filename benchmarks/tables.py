"""Writes the tables of README.md and docs/ from benchmarks/results/*.json.

    python benchmarks/tables.py            rewrite the pages
    python benchmarks/tables.py --check    exit 1 if a page is stale

A page marks the place of a table with two lines:

    <!-- table: NAME -->
    <!-- end -->

between which the rows of benchmarks/results/NAME.json go. Schema of a result file:

    {"name": ..., "title": ..., "machine": {...}, "model": ..., "text": ...,
     "rows": [{"column": value, ...}, ...]}

The keys of the first row are the columns; "title", "model" and "text" are optional.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLACE = re.compile(r"(<!-- table: ([\w.]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """List the pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def filled(page: str) -> str:
    """Return the text of a page with its tables made anew."""
    if len(PLACE.findall(page)) != page.count("<!-- table:"):
        raise SystemExit("a place for a table cannot be read")
    return PLACE.sub(lambda match: match[1] + table(match[2]) + match[4], page)


def table(name: str) -> str:
    """Return the table of a result file."""
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    columns = list(result["rows"][0])
    lines = [
        f"\n{caption(result)}\n",
        "| " + " | ".join(columns) + " |",
        "|---|" + "---:|" * (len(columns) - 1),
        *(
            "| " + " | ".join(cell(row[column]) for column in columns) + " |"
            for row in result["rows"]
        ),
    ]
    return "\n".join(lines) + "\n\n"


def caption(result: dict[str, Any]) -> str:
    """Say what was measured, on what."""
    parts = [result.get("title", result["name"])]
    parts += [f"{key} {result[key]}" for key in ("model", "text") if key in result]
    parts += [", ".join(str(value) for value in result["machine"].values())]
    return ". ".join(part[:1].upper() + part[1:] for part in parts) + "."


def cell(value: object) -> str:
    """Spell a value: intervals as `estimate [low, high]`, floats with four significant digits."""
    if isinstance(value, dict):
        return f"{cell(value['estimate'])} [{cell(value['low'])}, {cell(value['high'])}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "\\|")


def main(check: bool) -> int:
    """Rewrite the pages, or only compare them; returns the exit code."""
    stale = 0
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = filled(old)
        if new == old:
            continue
        stale += 1
        print(f"{page.relative_to(ROOT)}: {'stale' if check else 'rewritten'}")
        if not check:
            page.write_text(new, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
