"""Endpoints: what they answer, refuse, delay and break, by a server of our own."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from tests.lm.endpoint import CUT, Reply, answer, asked, echo

from strop.decoding import GREEDY
from strop.errors import StropError, StropFailure
from strop.lm import Answer, Failed, open_model, remote
from strop.lm.remote import Gate, RemoteConfig, RemoteModel, Unreached


def test_answers_belong_to_their_prompts_and_are_counted(endpoint: Any) -> None:
    def slow(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.05)
        return echo(body, number)

    place = endpoint(slow)
    model, found = asked(place, 10, together=4, price_in=100.0, price_out=1000.0)
    assert {number: one.text for number, one in found.items()} == {
        number: f"answer {number}" for number in range(10)
    }
    assert found[0] == Answer("answer 0", "end", 7, 2)
    assert 2 <= place.most_at_once <= 4
    assert (model.usage.requests, model.usage.read, model.usage.written) == (10, 70, 20)
    assert model.used.endswith("#m: 10 answers, 70 tokens read, 20 written, cost 0.0270")
    assert place.asked[0]["model"] == "m"


def test_what_is_busy_is_asked_again(endpoint: Any) -> None:
    def busy(body: dict[str, Any], number: int) -> Reply:
        if number < 3:
            return 429, {"error": {"message": "slow"}}, {"Retry-After": "0.01"}
        return echo(body, 0)

    place = endpoint(busy)
    _, found = asked(place, 1, retries=4)
    assert found[0].text == "answer 0"
    assert len(place.asked) == 3


@pytest.mark.parametrize("status", [400, 403, 422, 500, 503])
def test_one_failure_leaves_the_others(endpoint: Any, status: int) -> None:
    def bad(body: dict[str, Any], _: int) -> Reply:
        if body["messages"][0]["content"] == "question 1":
            return status, {"error": {"message": "too long"}}, {}
        return echo(body, 0)

    _, found = asked(endpoint(bad), 3)
    assert isinstance(found[1], Failed)
    assert str(status) in found[1].reason
    assert [found[number].text for number in (0, 2)] == ["answer 0", "answer 2"]


@pytest.mark.parametrize("status", [401, 404])
def test_what_will_never_work_is_an_error(endpoint: Any, status: int) -> None:
    with pytest.raises(StropError, match=str(status)):
        asked(endpoint(lambda *_: (status, {"error": {"message": "no"}}, {})), 3)


def test_an_endpoint_that_dies_ends_the_work_and_what_it_answered_is_kept(endpoint: Any) -> None:
    place = endpoint(lambda body, number: echo(body, 0) if number <= 5 else (500, "{}", {}))
    model = open_model(f"{place.address}#m", remote=RemoteConfig(together=2, retries=0))
    kept = []
    # Two that end together are both handed over.
    with pytest.raises(StropFailure, match=r"[89] requests failed, the last with: .*500"):
        kept.extend(one for _, one in model.generate(["question"] * 99, [GREEDY] * 99))
    assert sum(isinstance(one, Answer) for one in kept) == 5
    assert len(place.asked) < 20


def test_what_was_answered_together_is_handed_over_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = RemoteModel("http://host/v1#m", True, RemoteConfig(together=20))
    fine = Answer("fine", "end", 1, 1)
    monkeypatch.setattr(model, "ask", lambda prompt, *_: Unreached("500") if prompt else fine)
    monkeypatch.setattr(model, "request", lambda *_: Unreached("500"))
    monkeypatch.setattr(remote, "wait", lambda running, *_, **__: [f.result() for f in running])
    kept = []
    with pytest.raises(StropFailure, match="19 requests failed"):
        kept.extend(model.generate(["", *["bad"] * 19], [GREEDY] * 20))
    assert (0, fine) in kept
    assert len(kept) == 20


def test_a_key_that_is_refused_costs_no_answer_that_came_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(prompt: str, *_: Any) -> Answer:
        if prompt == "refused":
            raise StropError("401")
        return Answer("fine", "end", 1, 1)

    model = RemoteModel("http://host/v1#m", True, RemoteConfig(together=20))
    monkeypatch.setattr(model, "ask", refused)
    monkeypatch.setattr(remote, "wait", lambda running, *_, **__: [f.exception() for f in running])
    kept = []
    with pytest.raises(StropError, match="401"):
        kept.extend(model.generate(["refused", *["fine"] * 19], [GREEDY] * 20))
    assert len(kept) == 19


@pytest.mark.parametrize("status", [413, 500])
def test_prompts_that_fail_one_after_another_are_not_a_dead_endpoint(
    endpoint: Any, status: int
) -> None:
    def reply(body: dict[str, Any], _: int) -> Reply:
        text = body["messages"][0]["content"]
        if text == remote.PROBE or int(text.split()[-1]) >= 40:
            return answer("yes")
        return status, {"error": {"message": "too large"}}, {}

    _, found = asked(endpoint(reply), 50)
    assert sorted(n for n, one in found.items() if isinstance(one, Answer)) == [*range(40, 50)]
    assert len(found) == 50


def test_a_limit_of_the_endpoint_is_not_the_prompts_fault(endpoint: Any) -> None:
    def reply(body: dict[str, Any], _: int) -> Reply:
        if body["messages"][0]["content"] == remote.PROBE:
            return answer("yes")
        return 429, {"error": {"message": "tokens a minute"}}, {}

    place = endpoint(reply)
    with pytest.raises(StropFailure, match=r"the last with: .*tokens a minute"):
        asked(place, 100, together=2)
    assert len(place.asked) < 12


def test_the_turn_of_a_plain_question_is_waited_for(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(remote, "LOOK", 0.05)
    monkeypatch.setattr(remote, "DEAD", 2)

    def reply(body: dict[str, Any], _: int) -> Reply:
        plain = body["messages"][0]["content"] == remote.PROBE
        return answer("yes") if plain else (500, {}, {})

    _, found = asked(endpoint(reply), 3, timeout=1, per_minute=40, together=3)  # 1.5 s for a turn
    assert len(found) == 3


def test_a_plain_question_that_drips_ends_the_work(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(remote, "LOOK", 0.05)
    place = endpoint(echo)
    place.drips = 0.2
    with pytest.raises(StropFailure, match="the last with: no whole answer in 1 s"):
        asked(place, 40, timeout=1, together=32)


def test_what_will_be_asked_and_what_was_is_said(
    endpoint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = asked(endpoint(echo), 10, price_in=100.0, price_out=1000.0)
    before, after = capsys.readouterr().err.splitlines()
    wanted = f"10 requests, about {100 // 4} tokens to read, at most {10 * GREEDY.max_tokens:,}"
    assert before.startswith(f"{model.name}: {wanted} to write, about ")
    assert before.endswith(" at most by your prices")
    assert after == model.used
    list(model.generate([], []))
    assert capsys.readouterr().err == ""


def test_prompts_that_are_refused_are_not_a_dead_endpoint(endpoint: Any) -> None:
    _, found = asked(endpoint(lambda *_: (400, {"error": {"message": "too long"}}, {})), 20)
    assert len(found) == 20


@pytest.mark.parametrize("status", [200, 400])
def test_an_endpoint_that_answers_nothing_is_not_asked_to_the_end(
    endpoint: Any, status: int
) -> None:
    body = {"choices": [{"message": {"content": None}}], "error": {"message": "no"}}
    place = endpoint(lambda *_: (status, body, {}))
    with pytest.raises(StropFailure, match="requests failed"):
        asked(place, 500)
    assert len(place.asked) < 60

    def only_plain(asked: dict[str, Any], number: int) -> Reply:
        plain = asked["messages"][-1]["content"] in (remote.PROBE, "question 99")
        return answer("yes") if plain else (status, body, {})

    # Where the prompts are at fault the others are asked.
    _, found = asked(endpoint(only_plain), 100)
    assert [number for number, one in found.items() if isinstance(one, Answer)] == [99]


def test_an_endpoint_that_drips_is_given_up(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(remote, "LOOK", 0.05)
    place = endpoint(echo)
    place.drips = 0.2  # seconds between two bytes: never silent for long
    _, found = asked(place, 3, timeout=2)
    assert {one.reason for one in found.values()} == {"no whole answer in 2 s"}


def test_waiting_for_a_turn_is_not_counted(endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(remote, "LOOK", 0.05)
    _, found = asked(endpoint(echo), 3, timeout=2, per_minute=30)
    assert all(isinstance(one, Answer) for one in found.values())


def test_a_reply_that_does_not_come(endpoint: Any) -> None:
    def late(body: dict[str, Any], _: int) -> Reply:
        time.sleep(1)
        return echo(body, 0)

    _, found = asked(endpoint(late), 1, timeout=0.1)
    assert isinstance(found[0], Failed)
    assert "timed out" in found[0].reason.lower()


def test_a_connection_that_is_cut_halfway(endpoint: Any) -> None:
    _, found = asked(endpoint(lambda *_: CUT), 1)
    assert isinstance(found[0], Failed)
    assert "onnection" in found[0].reason


def test_nobody_there() -> None:
    model = open_model("http://127.0.0.1:9/v1#m", remote=RemoteConfig(retries=0))
    assert isinstance(dict(model.generate(["question"], [GREEDY]))[0], Failed)


def test_so_many_a_minute() -> None:
    now = 0.0
    turns = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    gate = Gate(120, clock=lambda: now, sleep=sleep)
    for _ in range(4):
        gate.enter()
        turns.append(now)
    assert turns == pytest.approx([0, 0.5, 1.0, 1.5])


def test_what_an_endpoint_cannot_do_is_said() -> None:
    with pytest.raises(StropError, match="which model"):
        open_model("http://127.0.0.1:9/v1")
    with pytest.raises(StropError, match="continues no plain text"):
        open_model("http://127.0.0.1:9/v1#m", chat=False)
    with pytest.raises(StropError, match="score no given answers"):
        open_model("http://127.0.0.1:9/v1#m").score([("a", "b")])
    long = f"http://{'a' * 64}.org/v1"
    for address in ("http://host:port/v1", "http://[::1/v1", "http:///v1", "http://a b/v1", long):
        with pytest.raises(StropError, match="is not an address"):
            open_model(f"{address}#m")
    for bad in (
        {"together": 0},
        {"together": 10**9},
        {"price_in": -1.0},
        {"price_out": math.inf},
        {"timeout": 0.0},
        {"timeout": math.inf},
        {"per_minute": 1e-300},
        {"per_minute": math.nan},
    ):
        with pytest.raises(StropError):
            RemoteConfig(**bad)


@pytest.mark.parametrize("key", ["schlüssel", "a\nb"])
def test_a_key_that_no_request_can_carry(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_API_KEY", key)
    model = open_model("http://127.0.0.1:9/v1#m")
    with pytest.raises(StropError, match="STROP_API_KEY: a key has"):
        list(model.generate(["question"], [GREEDY]))


def test_an_address_or_proxy_that_cannot_be_used_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(address: str) -> None:
        list(open_model(f"{address}#m").generate(["question"], [GREEDY]))

    with pytest.raises(StropError, match=r"http://192\.168\.0\.300/v1: Invalid"):
        ask("http://192.168.0.300/v1")
    monkeypatch.setenv("ALL_PROXY", "gopher://localhost:1")
    with pytest.raises(StropError, match="gopher"):
        ask("http://127.0.0.1:9/v1")
