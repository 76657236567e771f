"""The real stages, on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import pytest

from strop.errors import StropError
from strop.recipes import STAGES, Finished, load_recipe, run_recipe

RECIPE = """\
name: tiny
stages:
  - pack:
      model: {model}
      format: bfp8
      overrides:
        "*.down_proj.weight": bfp6
  - check:
      candidate: ${{pack}}
      against: {model}
      text: text.txt
      tokens: 1024
      chunk: 64
  - generate:
      model: ${{pack}}
      prompts: [hello, "who are you?"]
      system: Be brief.
      max_tokens: 8
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)


def run(model: Path, directory: str, *settings: str) -> list[Finished]:
    Path("tiny.yaml").write_text(RECIPE.format(model=model))
    recipe = load_recipe(Path("tiny.yaml"), STAGES, settings)
    return run_recipe(recipe, Path(directory), STAGES)


def executed(stages: list[Finished]) -> list[str]:
    return [stage.name for stage in stages if stage.executed]


def test_pack_check_generate_and_again(tiny_model: Path) -> None:
    pack, check, generate = first = run(tiny_model, "run")
    assert executed(first) == ["pack", "check", "generate"]
    assert (pack.directory / "model" / "model.safetensors").exists()
    assert pack.metrics["packed_bytes"] < pack.metrics["source_bytes"]
    formats = {row["format"] for row in pack.metrics["kinds"]}
    assert formats == {"bfp8", "bfp6", "F32"}
    assert check.metrics["chunks"] == 16
    assert check.metrics["kl"]["estimate"] > 0
    assert "candidate" not in check.metrics  # a path would differ from run to run
    assert generate.metrics["prompts"] == 2
    report = Path("run/report.html").read_bytes()

    assert executed(run(tiny_model, "run")) == []
    changed = run(tiny_model, "run", "pack.format=bfp6")
    assert executed(changed) == ["pack", "check", "generate"]
    assert Path("run/report.html").read_bytes() != report
    run(tiny_model, "run")
    assert Path("run/report.html").read_bytes() == report


def test_another_backend_gives_other_numbers(tiny_model: Path) -> None:
    native, torch = run(tiny_model, "run"), run(tiny_model, "run", "check.backend=torch")
    assert executed(torch) == ["check"]
    assert 0 < torch[1].metrics["kl"]["estimate"] < native[1].metrics["kl"]["estimate"]
    with pytest.raises(StropError, match="unknown backend 'touch': did you mean 'torch'"):
        run(tiny_model, "run", "check.backend=touch")


SPEED = """\
name: tiny
stages:
  - pack:
      model: {model}
      format: bfp8
  - speed:
      candidate: ${{pack}}
      against: {model}
      prompt: hello
      tokens: 4
      repeats: 5
"""


def test_speed_is_reported_with_n_and_what_computed_it(tiny_model: Path) -> None:
    Path("tiny.yaml").write_text(SPEED.format(model=tiny_model))
    recipe = load_recipe(Path("tiny.yaml"), STAGES)
    speed = run_recipe(recipe, Path("run"), STAGES)[1].metrics
    assert speed["backends"] == ["native", "torch"]
    assert speed["ratio"]["n"] == speed["repeats"] == 5
    report = Path("run/report.md").read_text()
    [row] = [line for line in report.splitlines() if line.startswith("| Tokens per second")]
    assert f"{speed['ratio']['estimate']:.2f} [" in row
    assert "| 5 |" in row
    assert "native against torch" in row
    assert "5 timings of 4 tokens" in report
    assert "on transformers in float32" in report
    again = run_recipe(recipe, Path("run"), STAGES)
    assert executed(again) == []
    assert Path("run/report.md").read_text() == report


def test_a_speed_needs_a_prompt(tiny_model: Path) -> None:
    Path("tiny.yaml").write_text(SPEED.format(model=tiny_model))
    with pytest.raises(StropError, match="stage 'speed': prompt: must not be empty"):
        load_recipe(Path("tiny.yaml"), STAGES, ["speed.prompt=' '"])


def test_another_directory_gives_the_same_report_and_metrics(tiny_model: Path) -> None:
    for one, other in zip(run(tiny_model, "a"), run(tiny_model, "b"), strict=True):
        assert one.metrics == other.metrics
        assert one.manifest["hash"] == other.manifest["hash"]
        assert one.manifest["outputs"] == other.manifest["outputs"]
    for name in ("report.md", "report.html", "recipe.yaml"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_a_model_counts_by_its_contents(tiny_model: Path, tmp_path: Path) -> None:
    run(tiny_model, "run")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert executed(run(copy, "run")) == []
    with (copy / "config.json").open("a") as stream:
        stream.write(" \n")
    assert executed(run(copy, "run"))[0] == "pack"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("check.text=empty.txt", "stage 'check': the text is empty"),
        ("check.chunk=1024", "stage 'check': .*has a context of 512 tokens"),
        ("check.tokens=100", "stage 'check': 100 tokens are too few"),
        ("pack.overrides={nothing: bfp8}", "stage 'pack': no matrix is called 'nothing'"),
        ("generate.raw=true", "stage 'generate': a system message needs"),
    ],
)
def test_a_stage_that_refuses_is_named(tiny_model: Path, setting: str, message: str) -> None:
    Path("empty.txt").write_text("")
    with pytest.raises(StropError, match=message):
        run(tiny_model, "run", setting)


def test_packing_to_a_number_of_bits_on_a_text(tiny_model: Path) -> None:
    Path("bits.yaml").write_text(
        f"name: bits\nstages:\n  - pack: {{model: {tiny_model}, bits: 6, text: text.txt}}\n"
    )
    recipe = load_recipe(Path("bits.yaml"), STAGES, ())
    [pack] = run_recipe(recipe, Path("run"), STAGES)
    assert 5.5 < pack.metrics["bits_per_weight"] <= 6
    assert pack.metrics["calibration_tokens"] == 14 * 128
    report = STAGES["pack"].section([pack])
    assert "as 6 bits per weight, calibrated on 1,792 tokens, took it" in report.summary
    # Another text is another input: the stage runs again.
    assert executed(run_recipe(recipe, Path("run"), STAGES)) == []
    Path("text.txt").write_text("Pack my box with five dozen liquor jugs. " * 60)
    assert executed(run_recipe(recipe, Path("run"), STAGES)) == ["pack"]


def test_a_format_and_a_number_of_bits_are_one_too_many(tiny_model: Path) -> None:
    with pytest.raises(StropError, match="stage 'pack': give a format or a number of bits"):
        run(tiny_model, "run", "pack.bits=5")
