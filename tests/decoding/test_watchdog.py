"""Drafters that hang, are slow or interrupted: the text goes on, and nothing in the background."""

import gc
import threading
import time

import pytest
from tests.decoding.test_planner import Fixed

from strop.decoding import GREEDY, complete, watchdog
from strop.decoding.costs import PassCosts
from strop.decoding.planner import Planner
from strop.decoding.watchdog import Watched

COSTS = PassCosts([1.0] * 16)


class Bounded(Fixed):
    bounded = True


@pytest.mark.parametrize("method", ["start", "extend", "propose", "next"])
def test_a_drafter_that_hangs_is_done_without(method, fake, capsys, monkeypatch):
    monkeypatch.setattr(watchdog, "PATIENCE", 0.1)
    forever = threading.Event()
    hangs = Fixed([1] * 20, 0.9, name="hangs")

    def wait(*arguments):
        forever.wait()

    def wait_in_the_middle():
        yield from hangs.tokens[:0]
        forever.wait()

    changed = wait_in_the_middle if method == "next" else wait
    setattr(hangs, "propose" if method == "next" else method, changed)
    after = Bounded([2] * 20, 0.9, name="after")
    planner = Planner(COSTS, [hangs, after])
    plain = complete(fake(), [5, 9], GREEDY)
    assisted = complete(fake(), [5, 9], GREEDY, planner=planner)
    assert assisted.tokens == plain.tokens
    assert len(after.seen) > 2
    assert after.seen == [5, 9, *plain.tokens][: len(after.seen)]
    assert planner.drafters == [after]
    forever.set()  # it goes on, too late, and disturbs nothing
    assert complete(fake(), [5, 9], GREEDY, planner=planner).tokens == plain.tokens
    assert capsys.readouterr().err.count("going on without it") == 1


def test_a_prompt_may_take_as_long_as_so_many_guesses(monkeypatch):
    monkeypatch.setattr(watchdog, "PATIENCE", 0.05)
    slow = Fixed([1], 0.9, seconds=0.01)
    slow.start = lambda *arguments: time.sleep(0.3)
    Watched(slow).start([5] * 100, GREEDY, None)
    with pytest.raises(TimeoutError, match="no answer in"):
        Watched(slow).start([5] * 5, GREEDY, None)


def test_after_ctrl_c_no_call_goes_on(monkeypatch):
    done = threading.Event()
    slow = Fixed([1], 0.9)

    def extend(tokens):
        time.sleep(0.3)
        done.set()

    slow.extend = extend
    watched = Watched(slow)
    get = watched.answers.get
    interrupts = [KeyboardInterrupt]

    class Interrupted:
        def get(self, timeout):
            if interrupts:
                raise interrupts.pop()
            return get(timeout=timeout)

    watched.answers, answers = Interrupted(), watched.answers
    with pytest.raises(KeyboardInterrupt):
        watched.extend([1])
    assert done.is_set()
    watched.answers = answers
    watched.start([5], GREEDY, None)  # it is there for the next text
    assert slow.seen == [5]
    assert [guess.token for guess in watched.propose()] == [1]


def test_threads_end_with_their_planner(fake):
    before = set(threading.enumerate())
    planners = [Planner(COSTS, [Fixed([1], 0.9)]) for _ in range(5)]
    for planner in planners:
        complete(fake(), [5, 9], GREEDY, planner=planner)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 5
    del planner
    planners.clear()
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()
