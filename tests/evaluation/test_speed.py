import time

import pytest

from strop.errors import StropError
from strop.evaluation import measure_speed


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, but for what models say they take."""
    now = [0.0]
    monkeypatch.setattr("strop.evaluation.speed.perf_counter", lambda: now[0])
    return now


def paced(model, clock, seconds, log):
    """Make each forward pass take the next of some seconds, over and over."""
    session_of = model.session

    def session():
        one = session_of()
        forward = one.forward

        def timed(tokens, last=None):
            clock[0] += seconds[len(log) % len(seconds)] * len(tokens)
            log.append((model.name, len(tokens), last))
            return forward(tokens, last)

        one.forward = timed
        return one

    model.session = session
    return model


def test_rates_count_the_tokens_after_the_prompt(table_model, clock):
    log = []
    fast = paced(table_model("fast"), clock, [0.01], log)
    slow = paced(table_model("slow"), clock, [0.04], log)
    result = measure_speed(fast, slow, [1, 2, 3, 4], tokens=10, repeats=6)
    for interval, expected in ((result.candidate, 100), (result.source, 25), (result.ratio, 4)):
        assert interval.estimate == pytest.approx(expected)
        assert interval.low == pytest.approx(expected)
        assert interval.n == 6
    assert (result.prompt_tokens, result.tokens, result.repeats) == (4, 10, 6)
    # In turn, once more than counted, and never more logits than the last.
    names = [name for name, count, _ in log if count == 4]
    assert names == ["fast", "slow"] * 7
    assert {last for _, _, last in log} == {1}
    assert len(log) == 14 * 11


def test_what_both_share_does_not_blur_the_ratio(table_model, clock):
    log = []
    load = [1.0] * 22 + [3.0] * 22  # every other repetition meets a busy machine
    fast = paced(table_model("fast"), clock, [0.01 * one for one in load], log)
    slow = paced(table_model("slow"), clock, [0.04 * one for one in load], log)
    result = measure_speed(fast, slow, [1, 2], tokens=10, repeats=8)
    assert result.candidate.high > 1.5 * result.candidate.low
    assert result.ratio.high < 1.01 * result.ratio.low


def test_too_little_to_time_is_refused(table_model):
    model = table_model()
    for arguments in ({"tokens": 0}, {"repeats": 4}):
        with pytest.raises(StropError, match="at least"):
            measure_speed(model, model, [1], **arguments)
    with pytest.raises(StropError, match="at least"):
        measure_speed(model, model, [])


def test_the_clock_is_a_real_one(table_model):
    start = time.perf_counter()
    result = measure_speed(table_model(), table_model(), [1], tokens=3, repeats=5)
    seconds = time.perf_counter() - start
    assert result.candidate.estimate > 5 * 3 / seconds
    assert result.waiting is None or 0 <= result.waiting < 1


def test_waiting_for_other_processes_is_counted(table_model, clock, monkeypatch):
    waits = iter([2.0, 3.0])
    monkeypatch.setattr("strop.evaluation.speed.waited_seconds", lambda: next(waits))
    model = paced(table_model(), clock, [0.1], [])
    result = measure_speed(model, model, [1], tokens=4, repeats=7)
    assert result.waiting == pytest.approx(1 / 8)  # of 8 repeats of 2 models of 5 passes
