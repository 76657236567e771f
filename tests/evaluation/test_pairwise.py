"""Judges that are sound, that look at the place, or at nothing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from strop.data import Prompt
from strop.data.journal import Journal
from strop.decoding import Sampling
from strop.errors import StropFailure
from strop.evaluation.pairwise import (
    Pair,
    ask_both_ways,
    both,
    first_place,
    judgement,
    preference,
    question,
    spelled,
)
from strop.lm import Answer, Failed
from strop.stats import net_win_rate, wilson

Judge = Callable[[str, str], Any]


class Judging:
    """A judge by a function of the two answers, as they are shown."""

    name, identity, chat = "judge", "id", True

    def __init__(self, prefers: Judge, dies_after: int = 10**9) -> None:
        self.prefers, self.dies_after, self.asked = prefers, dies_after, 0

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sequence[Sampling], options: Sequence[str] = ()
    ) -> Iterator[tuple[int, Answer | Failed]]:
        for number, prompt in enumerate(prompts):
            if self.asked >= self.dies_after:
                raise KeyboardInterrupt
            self.asked += 1
            text = prompt[-1]["content"]
            shown = re.search(r"Answer A:\n(.*)\n\nAnswer B:\n(.*)\n\nThe better", text, re.DOTALL)
            assert shown is not None
            found = self.prefers(shown[1], shown[2])
            yield number, found if isinstance(found, Failed) else Answer(found, "end", 1, 1)

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[Any]:
        raise NotImplementedError


def longer(first: str, second: str) -> str:
    return "C" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def pairs(count: int = 60, ours: Callable[[int], str] = lambda n: "x" * (n % 3 + 1)) -> list[Pair]:
    return [
        Pair(f"question {n}", ours(n), "yy", "even" if n % 2 == 0 else "odd") for n in range(count)
    ]


def judged(judge: Judge, some: Sequence[Pair], tmp_path: Path, **more: Any) -> dict[str, Any]:
    with Journal(tmp_path / "replies.jsonl") as journal:
        return judgement(some, ask_both_ways(some, Judging(judge), journal), **more)


def test_a_sound_judge(tmp_path: Path) -> None:
    facts = judged(longer, pairs(), tmp_path)
    assert facts["conflicts"]["estimate"] == 0
    found = facts["together"]
    assert (found["wins"], found["ties"], found["losses"]) == (20, 20, 20)
    assert found["verdict"] == "cannot tell"
    assert facts["first_place"]["estimate"] == 0.5
    assert facts["first_place"]["n"] == 40  # twenty ties prefer no place
    assert facts["sets"].keys() == {"even", "odd"}
    better = judged(longer, pairs(ours=lambda n: "xxxx"), tmp_path / "other")
    assert better["together"]["verdict"] == "better"
    assert better["together"]["wins"] == 60
    assert "60 wins, 0 ties, 0 losses" in spelled(better)


def test_a_word_of_a_test_set_needs_the_p_value_of_all_sets(tmp_path: Path) -> None:
    # Of six prompts in each set all are won: alone that shows something, beside other sets not.
    some = [Pair(f"question {n}", "xxx", "yy", f"set {n % 3}") for n in range(18)]
    alone = judged(longer, some[::3], tmp_path / "alone")
    assert alone["sets"]["set 0"]["p"] == pytest.approx(2 / 2**6)
    assert alone["sets"]["set 0"]["verdict"] == alone["together"]["verdict"] == "better"
    facts = judged(longer, some, tmp_path / "all")
    for one in facts["sets"].values():
        assert one["net_win_rate"]["low"] > 0.5  # its interval alone would say better
        assert one["p_holm"] == pytest.approx(6 / 2**6)
        assert one["verdict"] == "cannot tell"
    assert facts["together"]["verdict"] == "better"  # by a p-value of its own
    assert "p = 0.094 with all sets: cannot tell (n = 6)" in spelled(facts)


def test_the_first_place_counts_pairs_not_replies() -> None:
    letters = [("A", "A")] * 6 + [("A", "B")] * 10 + [("C", "B")] * 2 + [("C", "C")] * 5
    found = first_place(letters)
    assert found == net_win_rate(6, 10, 2).to_json()
    assert found["n"] == 18
    assert first_place([("C", "C")] * 5) is None
    # All replies to a pair agree: as many pairs are as much as so many trials.
    sure = first_place([("A", "A")] * 20)
    assert sure["low"] == pytest.approx(wilson(20, 20).low, abs=0.02)
    assert sure["low"] < wilson(40, 40).low - 0.05


def test_a_judge_of_the_place_is_caught(tmp_path: Path) -> None:
    facts = judged(lambda *_: "A", pairs(), tmp_path)
    assert facts["conflicts"]["estimate"] == facts["first_place"]["estimate"] == 1
    assert not facts["reliable"]
    assert {one["verdict"] for one in facts["sets"].values()} == {"withheld"}
    assert facts["together"]["ties"] == 60
    assert "no verdict: more than 30% conflicts" in spelled(facts)


@pytest.mark.parametrize(("biased", "withheld"), [(0.2, False), (0.6, True)])
def test_a_planted_bias_is_measured(tmp_path: Path, biased: float, withheld: bool) -> None:
    chance = random.Random(0)

    def judge(first: str, second: str) -> str:
        return "A" if chance.random() < biased else longer(first, second)

    facts = judged(judge, pairs(600, lambda n: "xxx"), tmp_path)
    # Ours wins where it is shown first, and where it is second unless the bias speaks.
    assert facts["conflicts"]["estimate"] == pytest.approx(biased, abs=0.05)
    assert facts["first_place"]["estimate"] == pytest.approx(0.5 + biased / 2, abs=0.04)
    assert (facts["together"]["verdict"] == "withheld") == withheld


def test_a_judge_that_tosses_a_coin_finds_nothing(tmp_path: Path) -> None:
    wrong = 0
    for study in range(40):
        chance = random.Random(study)
        facts = judged(
            lambda *_, chance=chance: chance.choice("AB"),
            pairs(40, lambda n: "xxx"),
            tmp_path / str(study),
            most_conflicts=1.0,
        )
        wrong += facts["together"]["verdict"] != "cannot tell"
        assert 0.2 < facts["conflicts"]["estimate"] < 0.8
    assert wrong <= 5  # two are expected


def test_replies_without_a_letter_and_requests_that_failed_are_counted(tmp_path: Path) -> None:
    def judge(first: str, second: str) -> Any:
        if first == "x":
            return "hm"
        return Failed("500") if "xxx" in (first, second) else longer(first, second)

    facts = judged(judge, pairs(), tmp_path)
    assert facts["not_judged"] == {"no letter": 20, "failed: 500": 20}
    assert facts["judged"] == 20
    assert "not judged: 20 no letter" in spelled(facts)
    with pytest.raises(StropFailure, match="0 pairs were judged: 60 no letter"):
        judged(lambda *_: "", pairs(), tmp_path / "none")


def test_equal_answers_are_a_tie_that_nobody_is_asked(tmp_path: Path) -> None:
    judge = Judging(longer)
    some = [*pairs(6, lambda n: "yy"), *pairs(4, lambda n: "yyy")]
    with Journal(tmp_path / "replies.jsonl") as journal:
        facts = judgement(some, ask_both_ways(some, judge, journal))
    assert judge.asked == 8
    assert (facts["together"]["ties"], facts["together"]["wins"]) == (6, 4)


def test_who_is_interrupted_asks_nothing_twice(tmp_path: Path) -> None:
    some = pairs(10, lambda n: "x" * (n + 3))
    first, second = Judging(longer, dies_after=7), Judging(longer)
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path / "replies.jsonl") as journal:
        ask_both_ways(some, first, journal)
    with Journal(tmp_path / "replies.jsonl") as journal:
        rows = ask_both_ways(some, second, journal)
    assert first.asked + second.asked == 20
    assert judgement(some, rows)["together"]["wins"] == 10


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A", "A"),
        (" b.", "B"),
        ("**C**", "C"),
        ("Answer A", "A"),
        ("(B) is", "B"),
        ("A is better", "A"),
    ],
)
def test_letters(reply: str, letter: str) -> None:
    assert preference(Answer(reply, "end", 1, 1)) == (letter, "judged")


@pytest.mark.parametrize(
    "reply", ["", "Both", "D", "I prefer A", "1", "Apple", "AB", "A better one"]
)
def test_replies_without_a_letter(reply: str) -> None:
    assert preference(Answer(reply, "end", 1, 1)) == (None, "no letter")


def test_answers_are_shown_as_they_are() -> None:
    text = question("{first}", "{second} {0}", "}{")[-1]["content"]
    assert "What was asked:\n{first}\n" in text
    assert "Answer A:\n{second} {0}\n" in text


def test_a_question_that_failed_is_not_hidden_by_a_reply_without_a_letter() -> None:
    one = Pair("question", "a", "b")
    said, failed = ({"letter": None, "status": one} for one in ("no letter", "failed: 500"))
    for replies in ((said, failed), (failed, said)):
        known = {(one.key, order): reply for order, reply in enumerate(replies)}
        assert both(one, known)["status"] == "failed: 500"
    assert both(one, {(one.key, order): said for order in (0, 1)})["status"] == "no letter"
