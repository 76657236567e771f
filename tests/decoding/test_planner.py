"""The planner's choices against the arithmetic done by hand, and what it learns."""

import json
import math
from itertools import count, pairwise

import numpy as np
import pytest

from strop.decoding import GREEDY, Sampling, complete
from strop.decoding import costs as costing
from strop.decoding import planner as planning
from strop.decoding.costs import PassCosts, known_costs, measured_costs, shared
from strop.decoding.drafters import Guess, Law
from strop.decoding.planner import NOTHING, Planner


class Fixed:
    """Guesses the same tokens again and again."""

    seconds = 0.0

    def __init__(self, tokens, prior, seconds=0.0, name="fixed"):
        self.tokens, self.priors, self.seconds, self.name = tokens, [prior], seconds, name
        self.seen = []

    def start(self, prompt, sampling, session):
        self.seen = list(prompt)

    def extend(self, tokens):
        self.seen += tokens

    def propose(self):
        return (Guess(token, 0) for token in self.tokens)


def best_length(rate, seconds, cost=0.0):
    """The number of guesses with the most tokens per second, by trying all."""

    def speed(count):
        return sum(rate**i for i in range(count + 1)) / (seconds[count] + count * cost)

    return max(range(len(seconds)), key=speed)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("slope", [0.02, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("cost", [0.0, 0.2])
def test_as_many_guesses_as_give_the_most_tokens_per_second(rate, slope, cost):
    seconds = [1 + slope * rows for rows in range(9)]
    planner = Planner(PassCosts(seconds), [Fixed([1] * 20, rate, cost)])
    planner.start([5], GREEDY, None)
    wanted = best_length(rate, seconds, cost)
    gain = sum(rate**i for i in range(wanted + 1)) / (seconds[wanted] + wanted * cost)
    found = planner.draft(100)
    if gain > 1.03:
        assert len(found.tokens) == wanted
    else:
        assert found == NOTHING


def test_no_more_guesses_than_there_is_room_for():
    planner = Planner(PassCosts([1.0] * 16), [Fixed([1] * 20, 0.9)])
    planner.start([5], GREEDY, None)
    assert [len(planner.draft(limit).tokens) for limit in (0, 1, 7, 15, 99)] == [0, 1, 7, 15, 15]


def test_the_better_of_two_drafters():
    bad, good = Fixed([1], 0.2, name="bad"), Fixed([2], 0.7, name="good")
    for drafters in ([bad, good], [good, bad]):
        planner = Planner(PassCosts([1.0, 1.1]), drafters)
        planner.start([5], GREEDY, None)
        assert planner.draft(9).drafter == "good"


def test_guesses_that_prove_wrong_are_left_and_right_ones_found_without_checking_them():
    drafter = Fixed([1, 2, 3], 0.6)
    planner = Planner(PassCosts([1.0, 1.1, 1.2, 1.3]), [drafter])
    planner.start([5], GREEDY, None)
    assert planner.draft(9) != NOTHING
    for _ in range(40):
        planner.learn(planner.draft(9), [7])
    assert planner.draft(9) == NOTHING
    for _ in range(40):
        planner.learn(planner.draft(9), [1])
    assert planner.draft(9) != NOTHING
    assert drafter.seen == [5] + [7] * 40 + [1] * 40


def test_it_says_what_the_choices_rest_on():
    drafters = [Fixed([1] * 9, 0.9), Fixed([2] * 9, 0.3, name="wrong"), Fixed([], 0.9, 0, "mute")]
    planner = Planner(PassCosts([2.0, 2.2, 2.4, 2.6]), drafters)
    planner.start([5], GREEDY, None)
    for _ in range(64):
        planner.learn(planner.draft(9), [1])
    costs, good, wrong, mute = planner.why()
    assert costs == "a pass over 2, 4 tokens takes 1.10, 1.30 times one"
    assert good.startswith("fixed: 64 of 64 guesses right, 98% of late, a guess takes 0.00 of a")
    # (1 + 0.98 + 0.98 ** 2 + 0.98 ** 3) * 2 / 2.6
    assert "2.99 times the speed, 3 at a time" in good
    assert wrong.startswith("wrong: 0 of 64 guesses right, 6% of late")
    assert wrong.endswith("does not pay")
    assert mute == "mute: had nothing to guess, or was not worth asking"


@pytest.mark.parametrize(("took", "asked"), [(0.0, 20), (0.01, 2)])
def test_a_drafter_that_takes_longer_than_it_says_is_asked_more_rarely(monkeypatch, took, asked):
    clock = count(0.0, took)
    monkeypatch.setattr(planning, "perf_counter", lambda: next(clock))
    # A guess is said to take a tenth of a pass, and takes a whole one.
    planner = Planner(PassCosts([0.01] * 9), [Fixed([2], 0.0, 0.001)])
    planner.drafters = [Fixed([2], 0.0, 0.001)]  # not in a thread
    planner.start([5], GREEDY, None)
    for _ in range(400):
        planner.learn(planner.draft(9), [1])
    assert planner.asked["fixed"] == asked


def test_a_drafter_that_fails_is_done_without(capsys):
    class Broken(Fixed):
        def propose(self):
            yield Guess(1, 0)
            raise ValueError("no more")

    planner = Planner(PassCosts([1.0] * 9), [Broken([], 0.9, name="broken"), Fixed([2], 0.9)])
    planner.start([5], GREEDY, None)
    assert planner.draft(9).drafter == "fixed"
    assert planner.draft(9).drafter == "fixed"
    assert capsys.readouterr().err.count("drafter broken failed, going on without it") == 1


def test_passes_are_timed_for_every_number_of_rows(fake):
    costs = measured_costs(fake())
    for length in (64, 1000):
        seconds = costs.after(length)
        assert len(seconds) == 16
        assert all(later >= earlier > 0 for earlier, later in pairwise(seconds))


def test_passes_cost_more_after_more_tokens():
    costs = PassCosts([1.0, 1.25, 1.5], 0.01)
    assert costs.after(10) == costs.after(64) == [1.0, 1.25, 1.5]
    assert costs.after(164) == pytest.approx([2.0, 3.25, 4.5])
    # Two guesses pay after a short text, and none after a long one.
    planner = Planner(costs, [Fixed([1] * 20, 0.9)])
    planner.start([5] * 64, GREEDY, None)
    assert len(planner.draft(9).tokens) == 2
    planner.start([5] * 9000, GREEDY, None)
    assert planner.draft(9) == NOTHING


def test_costs_are_kept_unless_the_machine_was_busy_when_they_were_measured(
    monkeypatch, fake, tmp_path
):
    monkeypatch.setenv("STROP_CACHE", str(tmp_path))
    model = fake()
    measured = [PassCosts([one, *[1.5] * 15]) for one in (1.0, 0.5)]
    monkeypatch.setattr(costing, "measured_costs", lambda model: measured.pop(0))
    for now, expected in ((0.9, 1.0), (1.2, 1.0), (0.5, 0.5)):
        monkeypatch.setattr(costing, "plain_seconds", lambda model, now=now: now)
        assert known_costs(model).seconds[0] == expected
    assert not measured


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "{}", '{"seconds": []}', '{"seconds": [0.1], "attention": 0.0}']
    + [json.dumps({"seconds": [one] * 16, "attention": 0.0}) for one in (0.0, "a", None, 10**400)]
    + [json.dumps({"seconds": [1.0] * 15 + [one], "attention": 0.0}) for one in (math.nan, -1.0)]
    + [json.dumps({"seconds": [1.0] * 16, "attention": math.inf})],
)
def test_a_damaged_note_of_costs_is_not_believed(content, monkeypatch, fake, tmp_path):
    monkeypatch.setenv("STROP_CACHE", str(tmp_path))
    model = fake()
    expected = known_costs(model)
    (note,) = (tmp_path / "passes").iterdir()
    monkeypatch.setattr(costing, "plain_seconds", lambda model: 1.0)
    assert known_costs(model) == expected
    note.write_text(content)
    monkeypatch.setattr(costing, "measured_costs", lambda model: PassCosts([0.5] * 16))
    assert known_costs(model) == PassCosts([0.5] * 16)


@pytest.mark.parametrize("context", [1, 2, 3, 20, 70])
def test_costs_of_passes_in_a_small_context(context, monkeypatch, fake, tmp_path):
    monkeypatch.setenv("STROP_CACHE", str(tmp_path))
    model = fake(context_length=context)
    costs = known_costs(model)
    monkeypatch.setattr(costing, "plain_seconds", lambda model: 1.0)
    assert known_costs(model) == costs
    assert 1 <= len(costs.seconds) <= context
    assert len(shared(costs.seconds, 3)[0]) == len(costs.seconds)


ASCENDING = np.array([3, 5])


@pytest.mark.parametrize(
    ("guess", "rule"),
    [
        (Guess("a", 0), "coupled"),
        (Guess(5.0, 0), "coupled"),
        (Guess(None, 0), "coupled"),
        (Guess(5, 1), "coupled"),
        (Guess(5, -1), "coupled"),
        (Guess(5, 0.0), "coupled"),
        (5, "coupled"),
        ((5, 0, None), "rejection"),
        (Guess(3, 0, Law(ASCENDING, np.ones(1))), "rejection"),
        (Guess(3, 0, Law(ASCENDING[::-1], np.full(2, 0.5))), "rejection"),
        (Guess(3, 0, Law(ASCENDING, np.array([1.5, -0.5]))), "rejection"),
        (Guess(3, 0, Law(ASCENDING, np.full(2, np.nan))), "rejection"),
    ],
)
def test_what_is_no_guess_ends_its_drafter_and_not_the_text(guess, rule, fake, capsys):
    class Odd(Fixed):
        def propose(self):
            yield guess

    sampling = Sampling(max_tokens=20, rule=rule)
    planner = Planner(PassCosts([1.0] * 9), [Odd([], 0.9, name="odd")])
    found = complete(fake(), [5], sampling, planner=planner)
    assert found.tokens == complete(fake(), [5], sampling).tokens
    assert capsys.readouterr().err.count("drafter odd failed, going on without it") == 1
