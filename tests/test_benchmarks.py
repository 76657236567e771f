"""What the scripts of benchmarks/ do with results that are there already."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strop.data import read_json, write_json

ROOT = Path(__file__).parent.parent


@pytest.fixture
def quality(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> Callable[..., Any]:
    """Run the script on a tiny model, a short text and given plans; without its GGUF rows."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("quality")
    monkeypatch.setattr(module, "MODEL", str(tiny_model))
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "BASELINES", {})
    monkeypatch.setenv("STROP_DATA", str(tmp_path))
    (tmp_path / "wikitext2_valid.txt").write_text("the quick brown fox " * 300)

    def run(plans: list[str], *options: str) -> Any:
        given = ["--tokens", "4096", "--output", str(tmp_path / "runs"), *options]
        monkeypatch.setattr(sys, "argv", ["quality.py", *given])
        monkeypatch.setattr(module, "default_plans", lambda: plans)
        module.main()
        return read_json(tmp_path / "formats.json")

    return run


def test_only_missing_formats_are_measured(quality: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "formats.json"
    before = quality(["bfp4"])
    with pytest.raises(SystemExit, match="has a row of every format"):
        quality(["bfp4"], "--missing")
    before["rows"][0]["perplexity"] = 1.5  # what is there stays, whatever it says
    write_json(path, before)
    after = quality(["bfp4", "bfp5"], "--missing")
    rows = {(row["weights"], row["activations"]): row for row in after["rows"]}
    assert sorted(rows) == [(w, a) for w in ("bfp4", "bfp5") for a in ("bfp8", "float32")]
    assert all(row in rows.values() for row in before["rows"])
    write_json(path, before | {"text": "another"})
    with pytest.raises(SystemExit, match="was not measured on"):
        quality(["bfp4", "bfp5"], "--missing")
    assert read_json(path) == before | {"text": "another"}
