"""What README and documentation say is true: their code blocks run.

Commands and Python blocks run as they stand, in order, in an empty directory, but on a tiny random
model in place of `smollm2` and on the first part of the default text. Of the commands that prepare
a machine, `make` is checked by a dry run, and `source` is not run. YAML blocks are loaded as
recipes, JSON blocks are parsed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from strop.cli.main import app
from strop.data.documents import read_domains
from strop.evaluation import default_text
from strop.evaluation.tasks import open_task
from strop.recipes import STAGES, load_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = {"text"}  # languages of blocks that only show something


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Return language, title and text of the code blocks of a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def workplace(
    tmp_path: Path, tiny_model: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Go to a directory that holds what the pages take for granted."""
    monkeypatch.chdir(tmp_path)
    remembered = "strop.decoding.memory.cache_directory"  # not the texts of whoever runs the tests
    monkeypatch.setattr(remembered, lambda: tmp_path / "cache")
    shutil.copytree(ROOT / "examples", "examples")
    for recipe in Path("examples").glob("*.yaml"):
        recipe.write_text(tiny(recipe.read_text(), tiny_model))
    Path("notes.txt").write_text("A sentence of some length, many times over. " * 200)
    text = default_text()[:40_000]
    monkeypatch.setattr("strop.evaluation.default_text", lambda: text)
    return tmp_path


def tiny(text: str, model: Path) -> str:
    """Put the tiny model in the place of the real one."""
    return re.sub(r"\bsmollm2\b", str(model), text)


def strop(arguments: list[str], given: str = "") -> str:
    """Run the command in this process and return its standard output."""
    result = CliRunner().invoke(app, arguments, input=given)
    if result.exit_code != 0:
        raise AssertionError(f"strop {shlex.join(arguments)}: {result.exception or result.output}")
    return result.stdout


def command(line: str) -> None:
    """Run one line of a shell block."""
    words = shlex.split(line, comments=True)
    given = ""
    if words[:1] == ["echo"] and "|" in words:
        given, words = " ".join(words[1 : words.index("|")]) + "\n", words[words.index("|") + 1 :]
    match words:
        case []:
            return
        case ["strop", *arguments]:
            strop(arguments, given)
        case ["make", target]:
            subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)
        case ["source", ".venv/bin/activate"]:
            assert "VENV := .venv\n" in (ROOT / "Makefile").read_text()
        case _:
            raise AssertionError(f"a command that this test does not know: {line}")


def uses_models(page: Path) -> bool:
    return any("small" in text and language != "text" for language, _, text in blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_code_block_runs(page: Path, workplace: Path, tiny_model: Path) -> None:
    if uses_models(page):
        strop(["pack", str(tiny_model), "--format", "bfp4", "-o", "small"])
        if "-o small" in page.read_text():
            shutil.rmtree("small")
    for language, title, text in blocks(page):
        text = tiny(text, tiny_model)
        if language == "sh":
            for line in text.splitlines():
                command(line)
        elif language == "python":
            exec(compile(text, f"{page.name}", "exec"), {"__name__": "__main__"})
        elif language == "yaml":
            Path(title).write_text(text)
            load_recipe(Path(title), STAGES)
        elif language == "json":
            json.loads(text)
        else:
            assert language in SHOWN, f"a block in {language} is neither run nor only shown"


def shown_commands() -> list[str]:
    """Return the commands in blocks that only show something."""
    texts = [text for page in PAGES for language, _, text in blocks(page) if language in SHOWN]
    whole = "\n".join(texts).replace("\\\n", " ").splitlines()
    return sorted({line.split(" | ")[0] for line in whole if line.startswith("strop ")})


@pytest.mark.parametrize("line", shown_commands())
def test_commands_that_are_only_shown_are_such(line: str) -> None:
    parser = get_command(app)
    words = shlex.split(re.sub(r"\s#.*", "", line))[1:]
    name, command, rest = parser.resolve_command(parser.make_context("strop", words), words)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(command.make_context(name, rest), rest)
    assert command.make_context(name, rest).command is command  # wrong usage raises


def test_no_block_escapes() -> None:
    """Every fence of every page belongs to a block that was found (a negative control)."""
    for page in PAGES:
        fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), page


def test_examples_start_with_their_command() -> None:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        if first.startswith("# strop mix"):
            assert first == f"# strop mix examples/{path.name} -o mixed"
            read_domains(path)
            continue
        if first.startswith("# strop eval"):
            assert first == f"# strop eval MODEL --tasks examples/{path.name} -o results"
            open_task(str(path))
            continue
        assert first == f"# strop run examples/{path.name}"
        load_recipe(path, STAGES)


def links(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    yield from re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        assert (page.parent / link).exists(), link


def test_tables_are_those_of_the_results() -> None:
    script = ROOT / "benchmarks" / "tables.py"
    result = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + "run: python benchmarks/tables.py"


def test_a_stale_table_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "x.json").write_text(
        '{"name": "x", "machine": {"processor": "P"}, "text": "T", "rows": [{"a": "b|c", '
        '"d": {"estimate": 1.0, "low": 0.5, "high": 1.51234567, "n": 4, "level": 0.95}}]}'
    )
    page = "before\n<!-- table: x -->\nold\n<!-- end -->\nafter\n"
    expected = (
        "before\n<!-- table: x -->\n\nX. Text T. P.\n\n"
        "| a | d |\n|---|---:|\n| b\\|c | 1 [0.5, 1.512] |\n\n<!-- end -->\nafter\n"
    )
    assert tables.filled(page) == expected
    assert tables.filled(expected) == expected


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "reference" / "cli" / "index.html").read_text(encoding="utf-8")
    assert "strop run RECIPE [OPTIONS]" in page
    assert "<!-- write" not in page
