"""Reports: complete, self-contained, deterministic, and safe against what models write."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from strop.models.environment import environment, processor
from strop.recipes import STAGES, Finished, Recipe, load_recipe, sections
from strop.recipes.report import cell, fenced, write_report

RECIPE = """\
name: shown
stages:
  - pack: {model: smollm2}
  - check: {candidate: '${pack}', against: smollm2}
  - generate: {name: before, model: smollm2, prompts: &p ['Why?', 'How?']}
  - generate: {name: after, model: '${pack}', prompts: *p}
"""
HOSTILE = "<script>alert(1)</script> | ``` ````\u2028 <b>"


def interval(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high, "n": 16, "level": 0.95}


METRICS = {
    "pack": {
        "weights": 1_000_000,
        "bits_per_weight": 5.0,
        "source_bytes": 2_000_000,
        "packed_bytes": 625_000,
        "kinds": [
            kind | {"weights": 500_000, "tensors": 3}
            for kind in (
                {"kind": "mlp", "format": "bfp4", "bits": 4.5, "snr_db": 20.0},
                {"kind": "norm", "format": "F32", "bits": 32.0, "snr_db": None},
            )
        ],
    },
    "check": {
        "source_perplexity": interval(10.0, 9.0, 11.0),
        "perplexity": interval(11.0, 10.0, 12.0),
        "difference": interval(10.0, 8.0, 12.0),
        "kl": interval(0.05, 0.04, 0.06),
        "agreement": interval(0.9, 0.88, 0.92),
        "chunks": 16,
        "chunk": 512,
        "tokens": 8176,
        "seed": 0,
        "verdict": "worse",
    },
}


def finish(directory: Path, text: str = RECIPE) -> tuple[Recipe, list[Finished]]:
    """Return a recipe and its stages as if they had run in `directory`."""
    (directory / "r.yaml").write_text(text)
    recipe = load_recipe(directory / "r.yaml", STAGES)
    stages = []
    for number, step in enumerate(recipe.steps, start=1):
        place = directory / "stages" / f"{number:02d}-{step.name}"
        place.mkdir(parents=True)
        if step.kind == "generate":
            rows = [
                {"prompt": prompt, "completion": f"{step.name} {HOSTILE}", "finish_reason": reason}
                for prompt, reason in zip(step.options.prompts, ("end", "length"), strict=True)
            ]
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (place / "generations.jsonl").write_text("".join(lines))
        manifest = {"environment": environment()}
        metrics = METRICS.get(step.kind, {})
        finished = Finished(step.name, step.kind, step.options, place, metrics, manifest, True)
        stages.append(finished)
    return recipe, stages


@pytest.fixture
def reports(tmp_path: Path) -> tuple[str, str]:
    recipe, stages = finish(tmp_path)
    write_report(recipe, tmp_path, stages, STAGES)
    return (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()


class Page(HTMLParser):
    """Collects tags and addresses, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(reports: tuple[str, str]) -> None:
    page = Page(reports[1])
    assert page.open == []
    assert page.addresses == []
    assert not {"script", "link", "img", "iframe"} & page.tags
    assert "url(" not in reports[1]
    assert "@import" not in reports[1]
    assert reports[1].count("<svg") == 6
    assert len(reports[1]) < 60_000


def test_both_reports_say_what_changed(reports: tuple[str, str]) -> None:
    for report in reports:
        for fact in (
            "3.2 times smaller",
            "10.00 [9.00, 11.00]",
            "11.00 [10.00, 12.00]",
            "+10.00 [+8.00, +12.00]%",
            "worse, by 8.0 to 12.0%",
            "0.05 [0.04, 0.06]",
            "90.0 [88.0, 92.0]%",
            "4-bit grid",
            "greedy answers loop",
            "standard library",
            "Processor",
            "before: smollm2",
            "after: pack",
        ):
            assert fact in report, fact


def test_what_a_model_writes_cannot_break_out(reports: tuple[str, str]) -> None:
    markdown, page = reports
    assert "<script>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4
    assert page.count("[…]") == 2
    # In Markdown a text lies in a fence that is longer than any in it.
    assert markdown.count("`````text\n") == 4


def test_equal_results_give_equal_bytes(tmp_path: Path, reports: tuple[str, str]) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    recipe, stages = finish(other)
    write_report(recipe, other, stages, STAGES)
    assert ((other / "report.md").read_text(), (other / "report.html").read_text()) == reports
    assert str(tmp_path) not in "".join(reports)


def test_an_interval_that_holds_zero_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = METRICS["check"] | {"difference": interval(1.0, -1.0, 3.0), "verdict": "cannot tell"}
    monkeypatch.setitem(METRICS, "check", metrics)
    _, stages = finish(tmp_path)
    readings = [row.reading for part in sections(stages, STAGES) for row in part.headline]
    assert "cannot tell whether anything changed" in readings


def test_stages_of_two_machines_are_told_apart(tmp_path: Path) -> None:
    recipe, stages = finish(tmp_path)
    stages[1].manifest["environment"]["processor"] = "another one"  # type: ignore[index]
    write_report(recipe, tmp_path, stages, STAGES)
    report = (tmp_path / "report.md").read_text()
    assert "Environment of pack, before, after:" in report
    assert "Environment of check:" in report


def test_several_stages_of_a_kind_are_named(tmp_path: Path) -> None:
    text = "stages:\n  - pack: {model: smollm2}\n  - pack: {name: big, model: a/b, format: bfp8}\n"
    _, stages = finish(tmp_path, text)
    measures = [row.measure for part in sections(stages, STAGES) for row in part.headline]
    assert measures == [
        "Size (pack)",
        "Bits per weight (pack)",
        "Size (big)",
        "Bits per weight (big)",
    ]


def test_markdown_cells_and_fences() -> None:
    assert cell("a|b\nc") == "a\\|b c"
    assert re.fullmatch(r"````text\n``` x\n````", fenced("``` x\n"))


def test_processors_are_read_as_linux_writes_them() -> None:
    x86 = ["processor : 0", "model name\t: AMD EPYC", "flags\t\t: fpu avx2", "", "flags : other"]
    assert processor(x86) == ("AMD EPYC", {"fpu", "avx2"})
    assert processor(["processor : 0", "Features : asimd sve"]) == ("", {"asimd", "sve"})
    assert processor([]) == ("", set())
