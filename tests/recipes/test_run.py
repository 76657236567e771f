"""Run directories: what is done stays done, what changed runs again, any moment may be the last."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_stages import EXECUTED, KINDS

from strop.data import read_json
from strop.errors import StropError
from strop.recipes import load_recipe, run_recipe

RECIPE = """\
name: small
stages:
  - make:
      lines: 5
  - count:
      text: ${make}
  - count:
      name: other
      text: text.txt
"""
PROGRAM = str(Path(__file__).with_name("fake_stages.py"))


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("one two three\n")
    EXECUTED.clear()
    return tmp_path


def run(text: str = RECIPE, *, settings=(), force=(), directory="run") -> list[str]:
    """Run a recipe and return what it told; EXECUTED lists the stages that did their work."""
    EXECUTED.clear()
    Path("r.yaml").write_text(text)
    told: list[str] = []
    recipe = load_recipe(Path("r.yaml"), KINDS, settings)
    run_recipe(recipe, Path(directory), KINDS, force, tell=told.append)
    return told


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file but the manifests (which hold times) and the lock."""
    skipped = ("manifest.json", ".lock")
    files = [path for path in directory.rglob("*") if path.is_file() and path.name not in skipped]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_run_directory_is_as_documented() -> None:
    run()
    assert set(contents(Path("run"))) == {
        "recipe.yaml",
        "report.md",
        "report.html",
        "stages/01-make/text.txt",
        "stages/01-make/metrics.json",
        "stages/02-count/metrics.json",
        "stages/03-other/metrics.json",
    }
    assert read_json(Path("run/stages/02-count/metrics.json")) == {"letters": 5}
    assert read_json(Path("run/stages/03-other/metrics.json")) == {"letters": 3}
    manifest = read_json(Path("run/stages/01-make/manifest.json"))
    assert {"hash", "inputs", "environment", "seed", "seconds", "peak_memory_bytes"} <= set(
        manifest
    )
    assert manifest["outputs"]["text.txt"]["bytes"] == 10
    assert load_recipe(Path("run/recipe.yaml"), KINDS) == load_recipe(Path("r.yaml"), KINDS)


def test_an_unchanged_second_run_executes_nothing() -> None:
    run()
    before = contents(Path("run"))
    told = run()
    assert EXECUTED == []
    assert all("already done" in line for line in told)
    assert contents(Path("run")) == before


def test_a_changed_option_runs_its_stage_and_those_that_depend_on_it() -> None:
    run()
    told = run(settings=["make.lines=6"])
    assert EXECUTED == ["make", "count"]
    assert told[0] == "1/3 make: 6 lines (changed: lines)"
    assert told[2] == "2/3 count: count ${make} (changed: text)"
    assert "already done" in told[4]


def test_the_seed_of_the_recipe_runs_everything_again() -> None:
    run()
    told = run("seed: 1\n" + RECIPE)
    assert EXECUTED == ["make", "count", "count"]
    assert told[0].endswith("(changed: seed)")


def test_a_stage_whose_output_did_not_change_leaves_the_others_alone() -> None:
    run()
    run(settings=["make.pause=0.001"])
    assert EXECUTED == ["make"]


def test_inputs_count_by_content_not_by_name_or_date() -> None:
    run()
    Path("text.txt").rename("copy.txt")
    run(RECIPE.replace("text.txt", "copy.txt"))
    assert EXECUTED == []
    Path("copy.txt").write_text("one two\n")
    run(RECIPE.replace("text.txt", "copy.txt"))
    assert EXECUTED == ["count"]


def test_a_forced_stage_runs_again() -> None:
    run()
    told = run(force=["make"])
    assert EXECUTED == ["make"]
    assert told[0].endswith("(as asked)")
    with pytest.raises(StropError, match="unknown stage 'mak': did you mean 'make'"):
        run(force=["mak"])


def test_a_damaged_output_is_made_again() -> None:
    run()
    Path("run/stages/01-make/text.txt").write_text("a")
    told = run()
    assert EXECUTED == ["make"]
    assert told[0].endswith("(its text.txt is not as it was written)")


def test_a_stage_keeps_its_results_when_the_recipe_puts_others_before_it() -> None:
    run()
    run(RECIPE.replace("stages:\n", "stages:\n  - make: {name: first}\n"))
    assert EXECUTED == ["make"]
    names = sorted(path.name for path in Path("run/stages").iterdir())
    assert names == ["01-first", "02-make", "03-count", "04-other"]


def test_a_failing_stage_leaves_nothing_and_keeps_the_others() -> None:
    with pytest.raises(StropError, match="stage 'bad': asked to fail"):
        run(RECIPE + "  - make: {name: bad, fail: true}\n")
    assert EXECUTED == ["make", "count", "count", "make"]
    names = sorted(path.name for path in Path("run/stages").iterdir())
    assert names == ["01-make", "02-count", "03-other"]
    assert not Path("run/report.md").exists()
    told = run(RECIPE + "  - make: {name: bad}\n")
    assert EXECUTED == ["make"]
    assert told[3] == "4/4 bad: 20 lines (the last run stopped here)"


def test_inputs_are_looked_for_before_anything_runs() -> None:
    Path("text.txt").unlink()
    with pytest.raises(StropError, match=r"stage 'other': text: cannot read text\.txt"):
        run()
    assert EXECUTED == []


def test_a_directory_that_cannot_be_written_is_one_clear_error() -> None:
    Path("run").write_text("a file in the way")
    with pytest.raises(StropError, match="cannot create directory run"):
        run()


SLOW = """\
name: slow
stages:
  - make: {lines: 40, pause: 0.004}
  - count: {text: '${make}', pause: 0.05}
  - make: {name: again, lines: 40, pause: 0.004}
"""


def start(directory: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, PROGRAM, "slow.yaml", directory], stderr=sys.stderr)


def test_ten_random_kills_end_with_the_same_bytes() -> None:
    Path("slow.yaml").write_text(SLOW)
    began = time.monotonic()
    assert start("whole").wait(timeout=60) == 0
    length = time.monotonic() - began
    chance = random.Random()  # another ten moments each time
    kills = 0
    for attempt in range(10):
        process = start("killed")
        # The first kill comes before a run can end; later runs have less left to do.
        time.sleep(chance.uniform(0.05, length / 2 if attempt == 0 else length))
        process.kill()
        kills += process.wait(timeout=60) == -signal.SIGKILL
        names = {path.name for path in Path("killed/stages").glob("[!.]*")}
        assert names <= {"01-make", "02-count", "03-again"}
        for name in names:  # whatever is there is whole
            assert read_json(Path("killed/stages") / name / "manifest.json")["kind"]
    assert kills > 0
    assert start("killed").wait(timeout=60) == 0
    assert contents(Path("killed")) == contents(Path("whole"))
    assert not list(Path("killed").rglob("*.partial"))


def test_a_killed_stage_starts_again_and_says_so() -> None:
    Path("slow.yaml").write_text(SLOW)
    process = start("run")
    wait_for(Path("run/stages/02-count"))
    process.kill()
    process.wait(timeout=60)
    told = run(SLOW)
    assert "already done" in told[0]
    assert told[2].endswith("(the last run stopped here)")


def test_two_runs_do_not_share_a_directory_and_a_dead_one_does_not_block() -> None:
    Path("slow.yaml").write_text(SLOW.replace("0.004", "0.5"))
    process = start("run")
    wait_for(Path("run/stages"))
    with pytest.raises(StropError, match=rf"process {process.pid} works in run: wait"):
        run()
    process.kill()
    process.wait(timeout=60)
    run()
    assert EXECUTED == ["make", "count", "count"]


def wait_for(path: Path) -> None:
    """Wait until another process has made a path."""
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def test_an_error_in_mid_stage_leaves_the_finished_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    run()

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("strop.recipes.run.tree_hash", full)
        with pytest.raises(StropError, match=r"cannot write .*01-make: No space left"):
            run(settings=["make.lines=6"])
    assert read_json(Path("run/stages/01-make/metrics.json")) == {"lines": 5}


@pytest.mark.parametrize("name", ["manifest.json", "metrics.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_damaged_record_runs_its_stage_again(name: str, text: str) -> None:
    run()
    before = contents(Path("run"))
    Path("run/stages/01-make", name).write_text(text)
    told = run()
    assert EXECUTED == ["make"]
    assert f"(its {name} is not as it was written)" in told[0]
    assert contents(Path("run")) == before


def test_a_directory_of_somebody_else_is_left_alone() -> None:
    mine = Path("mine")
    mine.mkdir()
    (mine / "recipe.yaml").write_text("# my own")
    with pytest.raises(StropError, match=r"holds recipe.yaml and is not a run directory"):
        run(directory="mine")
    assert (mine / "recipe.yaml").read_text() == "# my own"
    assert [path.name for path in mine.iterdir()] == ["recipe.yaml"]
    run()
    Path("run/report.md").unlink()
    Path("run/report.md").mkdir()
    Path("run/report.md/thesis").touch()
    with pytest.raises((StropError, OSError)):
        run(settings=["make.lines=6"])
    assert Path("run/report.md/thesis").exists()
