"""Reading recipes: every mistake is one line with its place and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fake_stages import KINDS
from hypothesis import given
from hypothesis import strategies as st

from strop.errors import StropError
from strop.recipes import Recipe, load_recipe

GOOD = """\
name: small
seed: 3
stages:
  - make:
      lines: 5
      words: [x, y]
  - count:
      name: letters
      text: ${make}
"""


def load(directory: Path, text: str, *settings: str) -> Recipe:
    path = directory / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, KINDS, settings)


def test_a_recipe_has_names_options_and_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert (recipe.name, recipe.seed) == ("small", 3)
    assert [(step.name, step.kind) for step in recipe.steps] == [
        ("make", "make"),
        ("letters", "count"),
    ]
    make, count = (step.options for step in recipe.steps)
    assert (make.lines, make.words, make.pause, make.flag) == (5, ("x", "y"), 0.0, False)
    assert count.text == "${make}"


def test_the_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert load(tmp_path, recipe.to_yaml()) == recipe


def test_name_seed_and_options_have_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path, "stages:\n  - make\n  - make: {name: again}\n")
    assert (recipe.name, recipe.seed, len(recipe.steps)) == ("r", 0, 2)


def test_settings_override_options_and_are_yaml(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD, "make.lines=7", "make.words=[z]", "letters.pause=1")
    assert recipe.steps[0].options.lines == 7
    assert recipe.steps[0].options.words == ("z",)
    assert recipe.steps[1].options.pause == 1.0


def stage(*lines: str) -> str:
    """Return a recipe with one stage `make`, whose options start on line 3."""
    return "\n".join(["stages:", "  - make:", *(f"      {line}" for line in lines), ""])


MISTAKES = {
    "nested too deep": ("[" * 20_000, "r.yaml:1: nested too deep"),
    "no truth value": ("seed: !!bool x\n", "r.yaml:1: not valid YAML: not a bool: 'x'"),
    "no date": ("seed: !!timestamp x\n", "r.yaml:1: not valid YAML: not a timestamp: 'x'"),
    "half a character": ('name: "\\ud800"\n', "r.yaml:1: not valid YAML: 'utf-8' codec"),
    "seed below zero": (
        "seed: -1\nstages: [make]\n",
        "r.yaml:1: seed must be from 0 to 2**64 - 1, not -1",
    ),
    "unknown key": (
        "nam: x\nstages: [make]\n",
        "r.yaml:1: unknown recipe key 'nam': did you mean 'name'?",
    ),
    "unknown stage": (
        "stages:\n  - mak:\n      lines: 1\n",
        "r.yaml:2: unknown stage 'mak': did you mean 'make'?",
    ),
    "unknown option": (
        stage("lines: 1", "puase: 2"),
        "r.yaml:4: unknown option of stage 'make' 'puase': did you mean 'pause'?",
    ),
    "text for a whole number": (
        stage("lines: many"),
        "r.yaml:3: lines: must be a whole number, not 'many'",
    ),
    "fraction for a whole number": (
        stage("lines: 1.5"),
        "r.yaml:3: lines: must be a whole number, not '1.5'",
    ),
    "truth for a whole number": (
        stage("lines: yes"),
        "r.yaml:3: lines: must be a whole number, not true",
    ),
    "number for text": (
        stage("words:", "  - a", "  - 5"),
        "r.yaml:5: must be text, not '5': put it in quotes",
    ),
    "date for text": (
        stage("words:", "  - 2026-01-02"),
        "r.yaml:4: must be text, not '2026-01-02': put it in quotes",
    ),
    "text for a list": (stage("words: a"), "r.yaml:3: words: must be a list, not 'a'"),
    "list for a mapping": (
        stage("labels: [1]"),
        "r.yaml:3: labels: must be a mapping of 'key: value' lines, not a list",
    ),
    "wrong value in a mapping": (
        stage("labels:", "  a: 1", "  b: x"),
        "r.yaml:5: must be a whole number, not 'x'",
    ),
    "text for truth": (stage("flag: on it"), "r.yaml:3: flag: must be true or false, not 'on it'"),
    "nothing for a number": (stage("ratio:"), "r.yaml:3: ratio: must be a number, not empty"),
    "infinity": (stage("ratio: .inf"), "r.yaml:3: ratio: must be a finite number, not 'inf'"),
    "key twice": (stage("lines: 1", "lines: 2"), "r.yaml:4: 'lines' is given twice"),
    "missing option": (
        "stages:\n  - count: {}\n",
        "r.yaml:2: stage 'count' needs the option 'text'",
    ),
    "options not indented": (
        "stages:\n  - make:\n    lines: 1\n",
        "r.yaml:2: one stage for each '-', not 'make', 'lines': indent the options further",
    ),
    "stages as a mapping": (
        "stages:\n  make:\n",
        "r.yaml:1: must be a list, not a mapping of 'key: value' lines",
    ),
    "no stages": ("name: x\n", "r.yaml:1: a recipe needs a list of stages"),
    "empty list of stages": ("stages: []\n", "r.yaml:1: a recipe needs a list of stages"),
    "empty file": ("", "r.yaml:1: must be a mapping of 'key: value' lines, not empty"),
    "a list": ("- make\n", "r.yaml:1: must be a mapping of 'key: value' lines, not a list"),
    "not YAML": ("stages: [make\n", "r.yaml:2: not valid YAML: expected ',' or ']', but got"),
    "control character": ("name: \x00\n", "r.yaml:1: not valid YAML: "),
    "a tag that makes objects": (
        stage("lines: !!python/name:os.system x"),
        "r.yaml:3: not valid YAML: could not determine a constructor",
    ),
    "a value inside itself": (stage("words: &w [*w]"), "r.yaml:3: contains itself"),
    "seed": ("seed: x\nstages: [make]\n", "r.yaml:1: must be a whole number, not 'x'"),
    "two of a name": (
        "stages:\n  - make\n  - make\n",
        "r.yaml:3: two stages are called 'make': give one of them another 'name'",
    ),
    "name that is no directory": (
        "stages:\n  - make:\n      name: a/b\n",
        "r.yaml:3: name 'a/b': use letters, digits, '-' and '_'",
    ),
    "reference to a later stage": (
        "stages:\n  - count:\n      text: ${make}\n  - make\n",
        "r.yaml:3: text: '${make}' must name an earlier stage: none so far",
    ),
    "reference to no stage": (
        "stages:\n  - make\n  - count:\n      text: ${mkae}\n",
        "r.yaml:4: text: '${mkae}' must name an earlier stage: "
        "unknown earlier stage 'mkae': did you mean 'make'?",
    ),
    "reference of the wrong type": (
        "stages:\n  - make\n  - load:\n      model: ${make}\n",
        "r.yaml:4: model: stage 'make' does not make a model",
    ),
    "reference to a stage without output": (
        "stages:\n  - make\n  - count: {text: '${make}'}\n  - count: {name: b, text: '${count}'}\n",
        "r.yaml:4: text: stage 'count' does not make a text file",
    ),
    "reference with a tail": (
        "stages:\n  - make\n  - count:\n      text: ${make}/x\n",
        "r.yaml:4: text: '${make}/x': a reference is ${stage} and nothing else",
    ),
    "unknown format": (
        "stages:\n  - pack:\n      model: smollm2\n      format: bfp44\n",
        "r.yaml:4: format: unknown format 'bfp44': did you mean 'bfp4'?",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, mistake: str) -> None:
    text, message = MISTAKES[mistake]
    with pytest.raises(StropError) as caught:
        load(tmp_path, text)
    found = str(caught.value)
    assert "\n" not in found
    assert found.startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("make", "--set make: write stage.option=value"),
        ("make=1", "--set make=1: write stage.option=value"),
        ("make.name=b", "--set make.name=b: write stage.option=value"),
        ("mke.lines=1", "--set mke.lines=1: unknown stage 'mke': did you mean 'make'?"),
        ("make.line=1", "--set make.line=1: unknown option of stage 'make' 'line': did you mean"),
        ("make.lines=x", "--set make.lines=x: lines: must be a whole number, not 'x'"),
        ("make.lines=", "--set make.lines=: lines: must be a whole number, not empty"),
        ("make.words=[", "--set make.words=[: not valid YAML: "),
    ],
)
def test_a_wrong_setting_names_itself(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(StropError) as caught:
        load(tmp_path, GOOD, setting)
    assert str(caught.value).startswith(message)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(StropError, match=r"cannot read .*none\.yaml: No such file"):
        load_recipe(tmp_path / "none.yaml", KINDS)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(StropError, match=r"latin\.yaml: not UTF-8 text"):
        load_recipe(tmp_path / "latin.yaml", KINDS)


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2", 2.0), ("+1.5e2", 150.0)])
def test_numbers_may_be_written_as_people_write_them(
    tmp_path: Path, text: str, value: float
) -> None:
    assert load(tmp_path, stage(f"ratio: {text}")).steps[0].options.ratio == value


def test_anchors_and_aliases_work(tmp_path: Path) -> None:
    text = "stages:\n  - make: &m\n      words: &w [q]\n  - make: {name: b, words: *w}\n"
    assert load(tmp_path, text).steps[1].options.words == ("q",)


def check_load(directory: Path, text: str) -> None:
    """Load what may be wrong; only a StropError that names the file may come out."""
    try:
        load(directory, text)
    except StropError as error:
        if str(directory / "r.yaml") not in str(error):
            raise AssertionError("an error without a place") from error


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=values | st.fixed_dictionaries({"stages": st.lists(values, max_size=3)}))
def test_any_yaml_is_a_recipe_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    check_load(tmp_path_factory.mktemp("any"), yaml.safe_dump(value, allow_unicode=True))


@given(text=st.text(max_size=40))
def test_any_text_is_a_recipe_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    check_load(tmp_path_factory.mktemp("any"), text)
