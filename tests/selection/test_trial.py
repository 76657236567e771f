"""Selectors beside random rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from strop.data import read_rows
from strop.errors import StropError
from strop.selection import trial as studying
from strop.selection.select import SelectConfig
from strop.selection.trial import TrialConfig, trial
from strop.selection.trial_plan import Runs
from strop.selection.trial_report import spelled
from strop.training.network import NetworkConfig
from strop.training.schedule import TrainingConfig

pytestmark = pytest.mark.usefixtures("one_thread")

KEEP = 16
CONFIG = TrialConfig(
    runs=Runs(parts=2, random=3, more=1.5),
    network=NetworkConfig(rank=4),
    training=TrainingConfig(learning_rate=3e-2, epochs=2, batch=4),
)
SELECTORS = {name: SelectConfig(by=name, keep=KEEP) for name in ("good", "luck")}


def rows(count: int, source: random.Random) -> list[dict[str, object]]:
    """Make prompts; every third is answered as all tests are, the others by letters at random."""
    found: list[dict[str, object]] = []
    for number in range(count):
        good = number % 3 == 0
        answer = "++++" if good else "".join(source.choices("abcdefghij", k=source.randint(2, 9)))
        scores = {"good": float(good) + 1e-3 * source.random(), "luck": source.random()}
        found.append({"prompt": f"Say {number}", "completion": answer, "scores": scores})
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    made = rows(150, random.Random(0))
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    """Rows of which one has a prompt of the data, so that it must not be trained on."""
    path = tmp_path / "tests.jsonl"
    made = [{"prompt": f"Say {number}", "completion": "++++"} for number in range(149, 179)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


@pytest.mark.usefixtures("in_process")
def test_what_helps_is_told_from_what_is_random_in_disguise(
    data: Path, tests: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, runs=Runs())
    facts = trial(str(tiny_model), data, tmp_path / "out", SELECTORS, config, tests)
    assert facts["rows"] == 149
    loss = facts["measures"]["loss"]
    assert loss["random"]["mean"] < facts["untrained"]["loss"]
    good, luck = (loss["selectors"][name] for name in SELECTORS)
    assert good["against"]["random"]["verdict"] == "better"
    assert good["against"]["random"]["difference"]["high"] < 0
    assert luck["against"]["random"]["verdict"] == "cannot tell"
    runs = read_rows(tmp_path / "out" / "runs.jsonl")
    assert len(runs) == 5 + 2 * 2 * 3
    assert {run["rows"] for run in runs} == {KEEP}
    assert good["mean"] == pytest.approx(
        sum(run["loss"] for run in runs if (run["selector"], run["which"]) == ("good", "chosen"))
        / 3
    )
    said = spelled(facts)
    assert "good: -" in said
    assert "against length-matched" in said
    assert (tmp_path / "out" / "differences.svg").read_text().startswith("<svg")


@pytest.mark.usefixtures("in_process")
def test_selectors_that_choose_the_same_share_runs(
    data: Path, tests: Path, tiny_model: Path, tmp_path: Path
) -> None:
    two = {"good": SELECTORS["good"], "also good": SELECTORS["good"]}
    facts = trial(str(tiny_model), data, tmp_path / "out", two, CONFIG, tests)
    good, also = facts["measures"]["loss"]["selectors"].values()
    assert good == also


@pytest.mark.usefixtures("in_process")
def test_lengths_are_matched(data: Path, tests: Path, tiny_model: Path, tmp_path: Path) -> None:
    data.write_text(
        "".join(
            json.dumps({**row, "scores": {"long": len(str(row["completion"]))}}) + "\n"
            for row in rows(150, random.Random(1))
        )
    )
    long = {"long": SelectConfig(by="long", keep=10, duplicates=True)}
    facts = trial(str(tiny_model), data, tmp_path / "out", long, CONFIG, tests)
    cost = facts["cost"]
    assert cost["long"]["answer_tokens"] > 1.3 * cost["random"]["answer_tokens"]
    assert cost["length-matched to long"]["answer_tokens"] == cost["long"]["answer_tokens"]
    assert cost["more random"]["tokens"] > 1.3 * cost["random"]["tokens"]
    assert list(facts["measures"]["loss"]["selectors"]["long"]["against"]) == [
        "random",
        "length-matched",
        "more random",
    ]


def test_tasks_are_asked_of_every_run(
    data: Path, tests: Path, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "task.jsonl").write_text(
        "".join(
            json.dumps({"question": f"Say {number}", "right": "++++", "wrong": "abc"}) + "\n"
            for number in range(200, 212)
        )
    )
    (tmp_path / "task.yaml").write_text(
        "title: which is said\ndata: {path: task.jsonl}\nkind: choice\n"
        'prompt: "{{ question }}"\nchoices: "{{ right }}\\n{{ wrong }}"\nanswer: "{{ right }}"\n'
    )
    config = replace(CONFIG, tasks=(str(tmp_path / "task.yaml"),))
    one = {"good": SELECTORS["good"]}
    facts = trial(str(tiny_model), data, tmp_path / "out", one, config, tests)
    measure = facts["measures"]["task, accuracy"]
    assert measure["n"] == 12
    assert not measure["lower_is_better"]
    assert 0 <= measure["random"]["mean"] <= 1
    said = spelled(facts)
    assert f"{100 * measure['random']['mean']:.1f}% after {KEEP} random rows" in said
    assert " points against random: " in said
    assert all("task, accuracy" in run for run in read_rows(tmp_path / "out" / "runs.jsonl"))


def test_who_is_interrupted_goes_on(
    data: Path, tests: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"luck": SELECTORS["luck"]}
    arguments = (str(tiny_model), data, tmp_path / "out", one, CONFIG, tests)
    real = studying.each_done

    def broken(*given: Any) -> Iterator[Any]:
        for number, job in enumerate(real(*given)):
            if number == 3:
                raise KeyboardInterrupt
            yield job

    monkeypatch.setattr(studying, "each_done", broken)
    with pytest.raises(KeyboardInterrupt):
        trial(*arguments)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out.work/*/losses.json")}
    assert len(kept) >= 1 + 3
    ends: dict[Path, int] = {}

    def watched(*given: Any) -> Iterator[Any]:
        yield from real(*given)
        ends.update({path: path.stat().st_mtime_ns for path in kept})

    monkeypatch.setattr(studying, "each_done", watched)
    facts = trial(*arguments)
    assert ends == kept
    monkeypatch.setattr(studying, "each_done", real)
    elsewhere = trial(str(tiny_model), data, tmp_path / "whole", one, CONFIG, tests, processes=2)
    found, other = (one["measures"]["loss"]["random"]["mean"] for one in (facts, elsewhere))
    assert found == pytest.approx(other)


@pytest.mark.parametrize(
    ("selectors", "words"),
    [
        ({}, "which selectors"),
        ({"random": SelectConfig(keep=4)}, "there already"),
        ({"good": SelectConfig(by="good")}, "say how many rows"),
        ({"a": SelectConfig(by="good", keep=4), "b": SelectConfig(by="luck", keep=5)}, "the same"),
        ({"good": SelectConfig(by="good", keep=100)}, "rows of a part: fewer than 100"),
        ({"god": SelectConfig(by="god", keep=4)}, "good"),
    ],
)
def test_what_cannot_be_compared_is_said(
    data: Path,
    tests: Path,
    tiny_model: Path,
    tmp_path: Path,
    selectors: dict[str, SelectConfig],
    words: str,
) -> None:
    with pytest.raises(StropError, match=words):
        trial(str(tiny_model), data, tmp_path / "out", selectors, CONFIG, tests)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Runs(parts=1),
        lambda: Runs(random=1),
        lambda: Runs(more=0.5),
        lambda: Runs(parts=10**8),
        lambda: Runs(random=10**8),
        lambda: Runs(seed=2**63),
    ],
)
def test_numbers_of_runs_out_of_range(make: Callable[[], Runs]) -> None:
    with pytest.raises(StropError, match=r"at least two|more than 1 times|at most 1000|a seed is"):
        make()


def test_names_that_others_have_are_taken(
    data: Path, tests: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """A task may be called as the file of losses is; two tasks may not be called alike."""
    rows_of_task = "".join(
        json.dumps({"question": f"Say {number}", "answer": "++++"}) + "\n" for number in range(12)
    )
    text = (
        "title: t\ndata: {path: task.jsonl}\nkind: match\nmax_tokens: 4\n"
        'prompt: "{{ question }}"\nanswer: "{{ answer }}"\n'
    )
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "task.jsonl").write_text(rows_of_task)
        (tmp_path / folder / "losses.yaml").write_text(text)
    one = {"good": SELECTORS["good"]}
    names = tuple(str(tmp_path / folder / "losses.yaml") for folder in ("a", "b"))
    with pytest.raises(StropError, match="two tasks have one name"):
        trial(str(tiny_model), data, tmp_path / "out", one, replace(CONFIG, tasks=names), tests)
    config = replace(CONFIG, tasks=names[:1])
    facts = trial(str(tiny_model), data, tmp_path / "out", one, config, tests)
    found = facts["measures"]["losses, exact match"]
    assert 0 <= found["random"]["mean"] <= 1
    assert found["n"] == 12


@pytest.mark.usefixtures("in_process")
def test_rows_of_the_tests_that_cannot_be_used_are_kept(
    data: Path, tests: Path, tiny_model: Path, tmp_path: Path
) -> None:
    tests.write_text(tests.read_text() + json.dumps({"prompt": 1, "completion": "x"}) + "\n")
    one = {"good": SELECTORS["good"]}
    trial(str(tiny_model), data, tmp_path / "out", one, CONFIG, tests)
    assert len(read_rows(tmp_path / "out" / "tests-rejected.jsonl")) == 1


def test_more_rows_have_to_be_more(
    data: Path, tests: Path, tiny_model: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, runs=Runs(parts=2, random=2, more=1.01))
    with pytest.raises(StropError, match="no more rows"):
        trial(str(tiny_model), data, tmp_path / "out", {"good": SELECTORS["good"]}, config, tests)
    with pytest.raises(StropError, match="none is left to train on"):
        trial(str(tiny_model), data, tmp_path / "out", {"good": SELECTORS["good"]}, CONFIG, data)


def test_a_task_without_answers_is_said_before_anything_is_trained(
    data: Path, tests: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long.yaml").write_text(
        "title: Long\nkind: perplexity\ndata: {path: long.jsonl}\n"
        "prompt: ''\nanswer: '{{ text }}'\n"
    )
    rows = [json.dumps({"text": "x" * length}) for length in (9, 600, 700)]
    (tmp_path / "long.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(studying, "each_done", lambda *_: pytest.fail("trained"))
    config = replace(CONFIG, tasks=(str(tmp_path / "long.yaml"),))
    with pytest.raises(StropError, match="long, bits per byte: the model answers 1 of 3 rows"):
        trial(str(tiny_model), data, tmp_path / "out", SELECTORS, config, tests)
