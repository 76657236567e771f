"""What an endpoint replied: garbage, log-probabilities in all forms, and refusals of them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.lm.endpoint import Reply, answer, asked, echo

from strop.decoding import GREEDY
from strop.lm import Failed, RemoteConfig, open_model


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "{}",
        "[]",
        '{"choices": []}',
        '{"choices": [{}]}',
        '{"choices": [{"message": {"content": null}}]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}',
        '{"choices": [{"message": {"content": "x"}, "finish_reason": []}]}',
        '{"choices": [{"message": {"content": "x"}, "finish_reason": "\\ud800"}]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e300}}',
    ],
)
def test_garbage_is_a_failure(endpoint: Any, content: str) -> None:
    _, found = asked(endpoint(lambda *_: (200, content, {})), 2)
    assert all(isinstance(one, Failed) for one in found.values())


def test_options_are_read_from_the_first_token(endpoint: Any) -> None:
    top = [
        {"token": "4", "logprob": -0.1, "bytes": None},
        {"token": "5", "logprob": -3, "bytes": None},
    ]
    content = [{"token": "4", "logprob": -0.1, "bytes": None, "top_logprobs": top}]
    place = endpoint(lambda *_: answer("4", logprobs={"content": content, "refusal": None}))
    model = open_model(f"{place.address}#m")
    found = dict(model.generate(["question"], [GREEDY], options=["3", "4", "5"]))
    assert found[0].options == (None, -0.1, -3.0)
    assert place.asked[0]["top_logprobs"] == 20
    silent = open_model(f"{endpoint(echo).address}#m")
    assert dict(silent.generate(["question"], [GREEDY], ["1"]))[0].options == (None,)


@pytest.mark.parametrize(
    "first",
    [
        {"token": "4", "logprob": -0.1, "top_logprobs": None},
        {"token": "4", "logprob": -0.1},
        {"token": "4", "top_logprobs": [{"token": "4", "logprob": None}]},
        {"token": "4", "top_logprobs": [{"token": "4", "logprob": "likely"}]},
        {"token": "4", "top_logprobs": [{"token": "4", "logprob": 0.5}]},
        {"token": "4", "top_logprobs": {"4": -0.1}},
        "4",
    ],
)
def test_log_probabilities_in_another_form_leave_the_text(
    endpoint: Any, first: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    place = endpoint(lambda *_: answer("4", logprobs={"content": [first]}))
    model = open_model(f"{place.address}#m")
    found = dict(model.generate(["question"] * 3, [GREEDY] * 3, options=["3", "4"]))[0]
    assert (found.text, found.options) == ("4", (None, None))
    assert capsys.readouterr().err.count("tells no log-probabilities of a first token") == 1


def test_where_log_probabilities_are_refused_it_goes_on_without(
    endpoint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def plain_only(body: dict[str, Any], number: int) -> Reply:
        if "logprobs" in body:
            return 400, {"error": {"message": "logprobs are not supported"}}, {}
        return echo(body, number)

    place = endpoint(plain_only)
    model = open_model(f"{place.address}#m", remote=RemoteConfig(together=2, retries=0))
    prompts = [f"question {number}" for number in range(9)]
    found = dict(model.generate(prompts, [GREEDY] * 9, options=["1", "2"]))
    assert {number: one.text for number, one in found.items()} == {
        number: f"answer {number}" for number in range(9)
    }
    assert all(one.options == (None, None) for one in found.values())
    # The two that were asked first together did not know yet.
    assert 1 <= sum("logprobs" in body for body in place.asked) <= 2
    asked = len(place.asked)
    list(model.generate(prompts[:1], [GREEDY], options=["1"]))
    assert len(place.asked) == asked + 1
    said = capsys.readouterr().err
    assert said.count("refuses log-probabilities, goes on without them: ") == 1
    assert "logprobs are not supported" in said


def test_a_prompt_that_is_refused_does_not_end_log_probabilities(endpoint: Any) -> None:
    def long(body: dict[str, Any], number: int) -> Reply:
        if body["messages"][0]["content"] == "long":
            return 400, {"error": {"message": "too long"}}, {}
        return echo(body, number)

    place = endpoint(long)
    model = open_model(f"{place.address}#m", remote=RemoteConfig(together=1, retries=0))
    found = dict(model.generate(["long", "question"], [GREEDY] * 2, options=["1"]))
    assert isinstance(found[0], Failed)
    assert "too long" in found[0].reason
    assert ["logprobs" in body for body in place.asked] == [True, False, True]
