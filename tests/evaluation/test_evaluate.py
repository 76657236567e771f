"""Tasks from their files to figures, by models that are written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.written_models import Written, using, write

from strop.data import read_json, read_rows
from strop.errors import StropError, StropFailure
from strop.evaluation.evaluate import evaluate, spelled
from strop.evaluation.tasks import Task, open_task, task_rows
from strop.lm import Failed, LocalModel, RemoteConfig
from strop.models import load, pack

CHOICE = """\
title: Colours
data: {path: rows.jsonl}
kind: choice
prompt: "{{ question }}\\nAnswer:"
choices: "{{ options | without_letters }}"
answer: "{{ answer | without_letters }}"
"""
MATCH = """\
title: Sums
data: {path: sums.jsonl}
kind: match
prompt: "{{ question }}"
answer: "{{ answer }}"
extract: number
stop: ["\\n"]
"""
NO_RETRIES = RemoteConfig(retries=0)
CODE = CHOICE.replace("kind: choice", "kind: code")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "colours.yaml").write_text(CHOICE)
    (tmp_path / "sums.yaml").write_text(MATCH)
    options = "A. red\nB. light blue\nC. green"
    rows = [
        {"question": f"Which {n}?", "options": options, "answer": "B. light blue"} for n in range(9)
    ]
    rows.append({"question": "Which 9?", "options": options, "answer": "D. black"})
    write(tmp_path / "rows.jsonl", rows)
    write(tmp_path / "sums.jsonl", [{"question": f"{n} + 1?", "answer": n + 1} for n in range(20)])
    return tmp_path


def sums(right: Sequence[int], text: str = "It is {}.") -> dict[str, Any]:
    """Right answers to some sums, and wrong ones to the others."""
    return {f"{n} + 1?": text.format(n + 1 if n in right else n + 5) for n in range(20)}


def test_choices_by_three_measures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    using(monkeypatch, Written("m", {"red": -2.0, "light blue": -1.5, "green": -9.0}))
    facts = evaluate("m", [str(folder / "colours.yaml")], folder / "out")
    task = facts["tasks"]["colours"]
    assert task["rows"] == 9
    assert list(task["left_out"].values()) == [1]
    assert "is not one of" in next(iter(task["left_out"]))
    figures = {name: one["model"]["estimate"] for name, one in task["figures"].items()}
    # Of both tokens -3 < -2; of a letter -0.3 > -0.67; of a token -1.5 > -2.
    assert figures == {"accuracy": 0, "accuracy per letter": 1, "accuracy per token": 1}
    [sample, *_] = read_rows(folder / "out" / "samples" / "colours.jsonl")
    assert sample["log-probabilities"] == [-2.0, -3.0, -9.0]
    assert (sample["right"], sample["choices"][1]) == (1, "light blue")
    assert sample["prompt"] == "Which 0?\nAnswer:"


def test_numbers_are_extracted_and_compared_by_value(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = sums(range(20)) | {
        "0 + 1?": "First 7, then 1.0",
        "1 + 1?": "no idea",
        "2 + 1?": "3 or 4",
        "3 + 1?": Failed("500"),
    }
    using(monkeypatch, Written("m", answers))
    facts = evaluate("m", [str(folder / "sums.yaml")], folder / "out")
    figures = facts["tasks"]["sums"]["figures"]
    assert figures["exact match"]["model"]["n"] == 19
    assert figures["exact match"]["model"]["estimate"] == pytest.approx(17 / 19)
    assert figures["extracted anything"]["model"]["estimate"] == pytest.approx(18 / 19)
    assert facts["tasks"]["sums"]["failed"] == [{"500": 1}]
    assert "1 without an answer: 500" in spelled(facts)
    theirs = read_json(folder / "out" / "lm_eval.json")["results"]["sums"]
    assert theirs["exact_match,none"] == pytest.approx(17 / 19)
    # Of a sample: the deviation has n - 1, as in the harness.
    deviation = np.std([1.0] * 17 + [0.0] * 2, ddof=1) / np.sqrt(19)
    assert theirs["exact_match_stderr,none"] == pytest.approx(deviation)
    assert "89.5 [68.6, 97.1]%  n = 19" in spelled(facts)


def test_two_models_on_the_same_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    using(monkeypatch, Written("a", sums(range(18))), Written("b", sums(range(8, 20))))
    facts = evaluate("a", [str(folder / "sums.yaml")], folder / "out", against="b")
    found = facts["tasks"]["sums"]["figures"]["exact match"]
    assert found["model"]["estimate"] == 0.9
    assert found["against"]["estimate"] == 0.6
    assert found["difference"]["estimate"] == pytest.approx(0.3)
    assert found["p"] == pytest.approx(0.109375)  # 8 against 2 tosses of a coin
    assert found["verdict"] == "cannot tell"
    assert found["p_holm"] == found["p"]
    assert len(read_rows(folder / "out" / "against" / "sums.jsonl")) == 20
    assert read_json(folder / "out" / "results.json") == facts
    assert "90.0% against 60.0%: +30.0" in spelled(facts)


def test_several_tasks_are_corrected_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "again.yaml").write_text(MATCH)
    using(monkeypatch, Written("a", sums(range(20))), Written("b", sums(range(6, 20))))
    names = [str(folder / "sums.yaml"), str(folder / "again.yaml")]
    tasks = evaluate("a", names, folder / "out", against="b")["tasks"]
    p = [one["figures"]["exact match"] for one in tasks.values()]
    assert [one["p"] for one in p] == pytest.approx([0.03125] * 2)
    assert [one["p_holm"] for one in p] == pytest.approx([0.0625] * 2)
    assert [one["verdict"] for one in p] == ["cannot tell"] * 2
    alone = evaluate("a", names[:1], folder / "alone", against="b")
    first, second = alone["tasks"]["sums"]["figures"].values()
    assert first["verdict"] == "better"
    assert "verdict" not in second
    said = spelled(alone)
    assert "p = 0.031, p = 0.031 with all tasks: better  n = 20" in said
    assert "100.0% against 100.0%: +0.0 [-16.1, +16.1] points, p = 1.000  n = 20" in said
    assert said.count("with all tasks") == 1


def test_who_is_interrupted_asks_for_no_row_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(folder / "sums.yaml")
    whole = Written("m", sums(range(7)))
    using(monkeypatch, whole)
    wanted = evaluate("m", [name], folder / "whole")
    first = Written("m", sums(range(7)), dies_after=8)
    using(monkeypatch, first)
    with pytest.raises(KeyboardInterrupt):
        evaluate("m", [name], folder / "out")
    second = Written("m", sums(range(7)))
    using(monkeypatch, second)
    assert evaluate("m", [name], folder / "out") == wanted
    assert sorted(first.asked + second.asked) == sorted(whole.asked)
    samples = [folder / place / "samples" / "sums.jsonl" for place in ("out", "whole")]
    assert samples[0].read_bytes() == samples[1].read_bytes()


def test_examples_and_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "shown.yaml").write_text(MATCH + "examples: [{question: '8 + 1?', answer: 9}]\n")
    model = Written("m", {f"8 + 1? 9\n\n{n} + 1?": "1" for n in range(20)})
    using(monkeypatch, model)
    facts = evaluate("m", [str(folder / "shown.yaml")], folder / "out", limit=3)
    assert facts["tasks"]["shown"]["rows"] == 3
    assert model.asked[-1] == "8 + 1? 9\n\n0 + 1?"


def test_instructions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "words.yaml").write_text(
        "title: Words\ndata: {path: words.jsonl}\nkind: instructions\nprompt: '{{ prompt }}'\n"
    )
    few = {"num_words": 3, "relation": "less than"}
    ids = ["punctuation:no_comma", "length_constraints:number_words"]
    row = {"instruction_id_list": ids, "kwargs": [{}, few]}
    write(folder / "words.jsonl", [{"prompt": one, **row} for one in ("a", "b")])
    using(monkeypatch, Written("m", {"a": "Two words", "b": "Yes, three words"}))
    figures = evaluate("m", [str(folder / "words.yaml")], folder / "out")["tasks"]["words"]
    assert figures["figures"]["all followed"]["model"]["estimate"] == 0.5
    assert figures["figures"]["share followed"]["model"]["estimate"] == 0.5


def test_a_packed_model_chooses_as_its_scores_say(
    folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    pack(str(tiny_model), "bfp8", tmp_path / "packed")
    name = str(folder / "colours.yaml")
    facts = evaluate(str(tmp_path / "packed"), [name], tmp_path / "out", limit=2)
    assert facts["tasks"]["colours"]["chat"] == [False]
    samples = read_rows(tmp_path / "out" / "samples" / "colours.jsonl")
    raw = LocalModel(load(str(tmp_path / "packed")), chat=False)
    for sample in samples:
        pairs = [(sample["prompt"], f" {one}") for one in sample["choices"]]
        totals = [scores.total for _, scores in sorted(raw.score(pairs))]
        assert sample["log-probabilities"] == pytest.approx(totals)
        assert sample["accuracy"] == float(np.argmax(totals) == sample["right"])
    chatty = evaluate(str(tmp_path / "packed"), [name], tmp_path / "chat", limit=2, chat=True)
    assert chatty["tasks"]["colours"]["chat"] == [True]
    other = read_rows(tmp_path / "chat" / "samples" / "colours.jsonl")
    assert other[0]["log-probabilities"] != samples[0]["log-probabilities"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: choice", "a task needs title"),
        (CHOICE.replace("kind: choice", "kind: choise"), "unknown kind 'choise'"),
        (CHOICE + "max_tokens: 0\n", "at least 1"),
        (CHOICE + "chioces: 3\n", "did you mean 'choices'"),
        (CHOICE.replace("rows.jsonl", "none.jsonl"), "none.jsonl"),
        (CHOICE.replace("{path: rows.jsonl}", "{pth: rows.jsonl}"), "data is a path, or package"),
        (CHOICE.replace("{path: rows.jsonl}", "{generator: gym}"), "unknown generator 'gym'"),
        (CHOICE.replace("{path: rows.jsonl}", "{generator: instructions}"), "a size and a seed"),
        (CHOICE.replace("{{ question }}", "{{ qestion }}"), "no row can be asked; 10 of 10"),
        (CHOICE.replace("{{ question }}", "{{ question"), "no row can be asked"),
        (MATCH.replace("extract: number", "extract: '('"), "extract: "),
        (MATCH.replace('["\\n"]', "3"), "stop must be a list"),
        (CODE + "samples: 0\n", "samples must be a whole number"),
        (CODE + "samples: 2\n", "need a temperature above 0"),
        (CODE + "temperature: -1\n", "a number of at least 0"),
        (CODE + "temperature: .nan\n", "a number of at least 0"),
        (CHOICE + "temperature: 0.5\n", "only answers of the kind code"),
        ("[", "not YAML"),
        ("title: 2024-02-30", "not YAML: day is out of range"),
        ("title: 2024-02-01", "dates and keys that are numbers need quotes"),
        ("title: !!timestamp x", "not YAML"),
        ("title: !!int ''", "not YAML"),
        ("title: " + "[" * 2000, "not YAML"),
        (r'title: "\ud800"', "holds what JSON cannot"),
        ("1: a\nb: c", "holds what JSON cannot"),
        (CHOICE.replace("path: rows.jsonl", "path: 3"), "data is a path, or package"),
        (
            CHOICE.replace("path: rows.jsonl", "package: a, member: b, size: 1, sha256: 5"),
            "data is a path, or package",
        ),
        (CODE + "temperature: .inf\n", "a number of at least 0"),
        ("- a", "a task is an object"),
    ],
)
def test_what_is_no_task_is_one_line(
    folder: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, Written("m", {}))
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(StropError, match=said) as caught:
        evaluate("m", [str(folder / "bad.yaml")], folder / "out")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_evaluated_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(folder / "sums.yaml")
    using(monkeypatch, Written("m", {}))
    with pytest.raises(StropError, match="which tasks"):
        evaluate("m", [], folder / "out")
    with pytest.raises(StropError, match="one name"):
        evaluate("m", [name, name], folder / "out")
    with pytest.raises(StropError, match="did you mean 'openbookqa'"):
        evaluate("m", ["openbook"], folder / "out")
    (folder / "sums.jsonl").write_text("{\n[]\n")
    with pytest.raises(StropError, match=r"no row that can be used \(line 1: not JSON\)"):
        task_rows(open_task(name))


def test_lines_that_are_no_rows_are_counted_and_the_others_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        '\ufeff{"question": "0 + 1?", "answer": 1}',
        "{",
        '{"question": "1 + 1?", "answer": 2}',
        '{"question": null, "answer": 3}',
        '{"question": "2 + 1?", "answer": Infinity}',
        '{"question": "3 + 1?", "answer": 1e999}',
        '{"question": "4 + 1?", "answer": 5}',
    ]
    (folder / "sums.jsonl").write_text("\n".join(rows))
    using(monkeypatch, Written("m", sums(range(20))))
    facts = evaluate("m", [str(folder / "sums.yaml")], folder / "out")["tasks"]["sums"]
    assert facts["rows"] == 3
    assert facts["figures"]["exact match"]["model"]["estimate"] == 1.0
    null = "cannot fill its template: 'question' is undefined"
    assert facts["left_out"] == {"not JSON": 2, "has what cannot be written as JSON": 1, null: 1}
    said = capsys.readouterr().err
    assert "sums: 4 of 7 rows cannot be asked, most often (2): not JSON" in said
    first = task_rows(open_task(str(folder / "sums.yaml")), 2)
    assert (first.lines, [one.line for one in first.rejected]) == ([1, 3], [2])


def test_a_pattern_of_your_own_is_for_replies_and_not_for_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = MATCH.replace("extract: number", "extract: 'the answer is (\\d+)'").replace(
        'stop: ["\\n"]', "", 1
    )
    (folder / "own.yaml").write_text(own)
    using(monkeypatch, Written("m", sums(range(19), "3 and the answer is {}") | {"19 + 1?": "20"}))
    facts = evaluate("m", [str(folder / "own.yaml")], folder / "out")
    figures = facts["tasks"]["own"]["figures"]
    assert figures["exact match"]["model"]["estimate"] == pytest.approx(19 / 20)


def test_a_null_is_no_word(folder: Path) -> None:
    task = open_task(str(folder / "sums.yaml"))
    for template in ("{{ a }}", "{{ a | trim }}", "{{ a ~ '' }}", "{{ b[0] }}", "{{ c.d }}"):
        with pytest.raises(StropError, match="cannot fill its template"):
            task.fill(template, {"a": None, "b": [None], "c": {"d": None}})
    assert task.fill("{{ a | default('') }}{{ b }}", {"a": None, "b": 0}) == "0"


def test_a_task_that_fails_says_why_and_leaves_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "asked.yaml").write_text(MATCH.replace("{{ question }}", "Q: {{ question }}"))
    names = [str(folder / "asked.yaml"), str(folder / "sums.yaml")]
    failed = {f"Q: {one}": Failed("400: too long") for one in sums([])} | {"Q: 0 + 1?": "1"}
    using(
        monkeypatch, Written("m", sums(range(20)) | failed), Written("b", sums(range(9)) | failed)
    )
    facts = evaluate("m", names, folder / "out", against="b")
    assert facts["tasks"]["asked"]["figures"] == {}
    reason = "too few of 20 rows were answered; failures: 38 x 400: too long"
    assert facts["tasks"]["asked"]["unmeasured"] == reason
    assert f"  no figures: {reason}" in spelled(facts)
    assert facts["tasks"]["sums"]["figures"]["exact match"]["verdict"] == "better"
    assert (folder / "out" / "lm_eval-against.json").is_file()
    theirs = read_json(folder / "out" / "lm_eval.json")
    assert theirs["n-samples"] == {"sums": {"original": 20, "effective": 20}}
    using(monkeypatch, Written("m", failed))
    with pytest.raises(StropFailure, match=r"asked: too few of 20 .*: 19 x 400: too long"):
        evaluate("m", names[:1], folder / "none")
    assert not (folder / "none").exists()


def test_endpoints_are_asked_in_the_chat_template_alone(folder: Path) -> None:
    (folder / "code.yaml").write_text(CODE + "tests: pass\n")
    code, match = str(folder / "code.yaml"), str(folder / "sums.yaml")
    model = "http://127.0.0.1:9/v1#m"
    for names, chat, said in (
        ([match, code], None, "as code would be asked: ask in its chat template with --chat"),
        ([match, code], False, "as sums, code would be asked"),
        ([match], False, "as sums would be asked"),
        ([str(folder / "colours.yaml")], True, "score no given answers, which colours need"),
    ):
        with pytest.raises(StropError, match=said):
            evaluate(model, names, folder / "out", chat=chat, remote=NO_RETRIES)
    # What may be asked is asked, of nobody here.
    for names, chat in (([match], None), ([code], True)):
        with pytest.raises(StropFailure, match="requests failed"):
            evaluate(model, names, folder / "out", chat=chat, remote=NO_RETRIES)


def test_task_hashes_follow_what_is_asked(folder: Path) -> None:
    task = open_task(str(folder / "sums.yaml"))
    assert task.hash == Task(**{**vars(task), "folder": Path("elsewhere")}).hash
    assert task.hash != Task(**{**vars(task), "prompt": "{{ question }}!"}).hash
