"""The planner's choices against the arithmetic done by hand, and what it learns."""

import gc
import threading
from itertools import pairwise

import pytest

from strop.decoding import GREEDY, complete
from strop.decoding import planner as planning
from strop.decoding.costs import PassCosts, measured_costs
from strop.decoding.drafters import Guess
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
    planner = Planner(
        PassCosts([2.0, 2.2, 2.4, 2.6]), [Fixed([1] * 9, 0.9), Fixed([1] * 9, 0.1, 1.0, "dear")]
    )
    planner.start([5], GREEDY, None)
    costs, good, dear = planner.why()
    assert costs == "a pass over 2, 4 tokens takes 1.10, 1.30 times one"
    # (1 + 0.9 + 0.81 + 0.729) * 2 / 2.6
    assert "fixed: 90% of its guesses right" in good
    assert "2.65 times the speed, 3 at a time" in good
    assert "a guess takes 0.50 of a pass: does not pay" in dear


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


@pytest.mark.parametrize("method", ["start", "extend", "propose"])
def test_a_drafter_that_hangs_is_done_without(method, fake, capsys, monkeypatch):
    monkeypatch.setattr(planning, "PATIENCE", 0.1)
    forever = threading.Event()
    hangs = Fixed([1] * 20, 0.9, name="hangs")
    setattr(hangs, method, lambda *arguments: forever.wait())
    after = Fixed([2] * 20, 0.9, name="after")
    planner = Planner(PassCosts([1.0] * 16), [hangs, after])
    plain = complete(fake(), [5, 9], GREEDY)
    assisted = complete(fake(), [5, 9], GREEDY, planner=planner)
    assert assisted.tokens == plain.tokens
    # Each token of the text but the last ones, once.
    assert after.seen == [5, 9, *plain.tokens][: len(after.seen)]
    assert len(after.seen) > 2
    assert planner.drafters == [after]
    forever.set()  # it goes on, too late, and disturbs nothing
    assert complete(fake(), [5, 9], GREEDY, planner=planner).tokens == plain.tokens
    assert capsys.readouterr().err.count("going on without it") == 1


def test_threads_end_with_their_planner(fake):
    before = threading.active_count()
    planners = [Planner(PassCosts([1.0] * 16), [Fixed([1], 0.9)]) for _ in range(5)]
    for planner in planners:
        complete(fake(), [5, 9], GREEDY, planner=planner)
    assert threading.active_count() == before + 5
    threads = threading.enumerate()[-5:]
    del planner
    planners.clear()
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_passes_are_timed_for_every_number_of_rows(fake):
    costs = measured_costs(fake())
    for length in (64, 1000):
        seconds = costs.after(length)
        assert len(seconds) == 16
        assert all(later >= earlier > 0 for earlier, later in pairwise(seconds))


def test_passes_cost_more_after_more_tokens():
    costs = PassCosts([1.0, 1.25, 1.5], [0.0, 0.0, 0.5])
    assert costs.after(64) == [1.0, 1.25, 1.5]
    assert costs.after(66) == [1.0, 1.25, 2.5]
    # Two guesses pay after a short text and, as the third row then costs too much, one after it.
    planner = Planner(costs, [Fixed([1] * 20, 0.9)])
    planner.start([5] * 64, GREEDY, None)
    assert len(planner.draft(9).tokens) == 2
    planner.learn(planner.draft(9), [1, 1])
    assert len(planner.draft(9).tokens) == 1
