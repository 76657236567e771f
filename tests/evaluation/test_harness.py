"""A model of ours in lm-evaluation-harness, beside plain sums, and our results in its layout."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from strop.decoding.cache import PREFILL_CHUNK
from strop.errors import StropError, StropFailure
from strop.evaluation.harness import (
    adapter,
    generated,
    harness_results,
    rolling,
    sampling_of,
    scored,
)
from strop.lm import LocalModel
from strop.models import load, pack

CONTEXT = 512


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    place = tmp_path_factory.mktemp("packed") / "tiny"
    pack(str(tiny_model), "bfp8", place)
    return LocalModel(load(str(place)), chat=False)


def log_softmax(model: LocalModel, ids: list[int]) -> np.ndarray:
    """The log-probabilities after each token, in float64 and one pass."""
    rows = model.model.session().forward(ids).astype(np.float64)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def windows(ids: list[int], begin: int) -> list[tuple[list[int], list[int]]]:
    """What is read and what is predicted in each window, as the harness spells it."""
    first = ids[:CONTEXT]
    found = [([begin, *first[:-1]], first)]
    for start in range(CONTEXT, len(ids), CONTEXT):
        end = min(start + CONTEXT, len(ids))
        found.append((ids[end - CONTEXT - 1 : end - 1], ids[start:end]))
    return found


@pytest.mark.parametrize("length", [1, 7, CONTEXT, CONTEXT + 1, 2 * CONTEXT, 2 * CONTEXT + 300])
def test_rolling_is_a_plain_sum_over_windows(model: LocalModel, length: int) -> None:
    text = "".join(np.random.default_rng(length).choice(list("abcdefgh \n"), length))
    ids = model.model.tokenizer.encode(text, special=False)
    assert len(ids) == length
    total = 0.0
    for read, predicted in windows(ids, model.model.tokenizer.backend.token_to_id("<|im_start|>")):
        logps = log_softmax(model, read)[-len(predicted) :]
        total += sum(float(row[token]) for row, token in zip(logps, predicted, strict=True))
    assert rolling(model, text) == pytest.approx(total, abs=1e-3)


def test_rolling_computes_the_logits_of_a_few_tokens_at_a_time(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strop.lm.local.PREFILL_CHUNK", 50)
    opened, rows = type(model.model).session, []

    def watched(self: Any) -> Any:
        session = opened(self)
        forward = session.forward

        def counted(*args: Any, **more: Any) -> Any:
            logits = forward(*args, **more)
            rows.append(len(logits))
            return logits

        monkeypatch.setattr(session, "forward", counted)
        return session

    monkeypatch.setattr(type(model.model), "session", watched)
    rolling(model, "abc " * 150)
    assert sum(rows) == 600
    assert max(rows) == 50 < PREFILL_CHUNK


def test_rolling_over_nothing_is_nothing(model: LocalModel) -> None:
    assert rolling(model, "") == 0.0


def test_answers_are_scored_in_their_order(model: LocalModel) -> None:
    pairs = [("Is water wet?", " Yes"), ("", "No"), ("Is water wet?", " No, not at all")]
    for (prompt, answer), one in zip(pairs, scored(model, pairs), strict=True):
        encode = model.model.tokenizer.encode
        before = encode(prompt) or [encode("<|im_start|>")[0]]
        after = encode(answer)
        logps = log_softmax(model, [*before, *after])[len(before) - 1 : -1]
        assert one.total == pytest.approx(float(logps[range(len(after)), after].sum()), abs=1e-4)
        assert one.greedy == (logps.argmax(axis=1).tolist() == after)
    with pytest.raises(StropFailure, match="request 2: longer than the context"):
        scored(model, [("a", "b"), ("a", "b" * 600)])


def test_repeats_at_a_temperature_differ_and_are_the_same_again(model: LocalModel) -> None:
    settings = {"temperature": 1.0, "max_gen_toks": 12, "until": []}
    requests = [("Once", settings)] * 3
    found = generated(model, requests)
    assert len(set(found)) == 3
    assert generated(model, requests) == found
    greedy = generated(model, [("Once", settings | {"do_sample": False})] * 2)
    assert greedy[0] == greedy[1]
    with pytest.raises(StropFailure, match="request 1: longer than the context"):
        generated(model, [("a" * 600, settings)])


@pytest.mark.parametrize(
    ("settings", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 0.7}, 0.7),
        ({"temperature": 0.7, "do_sample": None}, 0.7),
        ({"temperature": 0.7, "do_sample": True}, 0.7),
        ({"temperature": 0.7, "do_sample": False}, 0.0),
        ({"temperature": 0.0, "do_sample": True}, 0.0),
        ({"do_sample": True}, 0.0),
    ],
)
def test_when_the_harness_draws(settings: dict[str, Any], temperature: float) -> None:
    assert sampling_of(settings, 3).temperature == temperature
    assert sampling_of(settings, 3).seed == 3


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 256),
        ({"max_gen_toks": 7}, 7),
        ({"max_new_tokens": 8}, 8),
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 10}, 10),
        ({"max_tokens": 9, "max_new_tokens": 8}, 8),
        ({"max_gen_toks": None, "max_tokens": 9}, 9),
    ],
)
def test_how_long_the_harness_lets_answers_be(settings: dict[str, Any], most: int) -> None:
    assert sampling_of(settings, 0).max_tokens == most


def test_other_settings_of_the_harness() -> None:
    assert sampling_of({"until": "\n"}, 0).stop == ("\n",)
    assert sampling_of({"until": ["a", "", "b"]}, 0).stop == ("a", "b")
    assert sampling_of({"until": None}, 0).stop == ()
    found = sampling_of({"top_p": 0.9, "top_k": 5}, 0)
    assert (found.top_p, found.top_k, found.min_p, found.repetition_penalty) == (0.9, 5, 0.0, 1.0)
    with pytest.raises(StropError, match="asks for num_beams, which we have not"):
        sampling_of({"num_beams": 4}, 0)


def test_results_have_the_order_of_the_figures_and_the_rows_that_were_answered() -> None:
    def figure(mean: float) -> dict[str, Any]:
        one, other = {"estimate": mean, "n": 8}, {"estimate": mean / 2, "n": 8}
        return {"model": one, "against": other, "stderr": [0.1, 0.2]}

    names = ("accuracy per letter", "accuracy per token", "accuracy")
    about = {"rows": 10, "hash": "0123456789abcdef", "shots": 3, "chat": [False, True]}
    tasks = {
        "one": about | {"loss": False, "figures": {name: figure(0.5) for name in names}},
        "text": about | {"loss": True, "figures": {"bits per byte": figure(1.5)}},
        "failed": about | {"loss": False, "figures": {}},
    }
    facts = {"model": "m", "against": "b", "tasks": tasks}
    found = harness_results(facts)
    wanted = ["alias", "acc,none", "acc_stderr,none", "acc_norm,none", "acc_norm_stderr,none"]
    assert list(found["results"]["one"]) == wanted
    assert found["results"]["text"]["bits_per_byte,none"] == 1.5
    for part in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert found[part].keys() == {"one", "text"}
    assert found["n-samples"]["one"] == {"original": 10, "effective": 8}
    assert found["higher_is_better"] == {
        "one": {"acc": True, "acc_norm": True},
        "text": {"bits_per_byte": False},
    }
    assert (found["n-shot"]["one"], found["versions"]["one"]) == (3, "0123456789ab")
    other = harness_results(facts, 1)
    assert other["results"]["one"]["acc_norm,none"] == 0.25
    assert other["results"]["one"]["acc_stderr,none"] == 0.2
    assert [one["configs"]["one"]["apply_chat_template"] for one in (found, other)] == [False, True]
    assert other["config"]["model_args"] == {"pretrained": "b"}


def test_the_harness_drives_a_model_by_its_own_class(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Base:
        """What the harness's class is to ours."""

    parts = {name: ModuleType(name) for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model")}
    parts["lm_eval.api.model"].LM = Base  # type: ignore[attr-defined]
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)
    driven = adapter()(pretrained=str(tiny_model), backend="torch", batch_size=1)
    assert isinstance(driven, Base)
    own = LocalModel(load(str(tiny_model), "torch"), chat=False)

    def requests(*arguments: tuple[Any, ...]) -> list[Any]:
        return [SimpleNamespace(args=one) for one in arguments]

    pairs = [("Is water wet?", " Yes"), ("", "No")]
    assert driven.loglikelihood(requests(*pairs)) == [
        (one.total, one.greedy) for one in scored(own, pairs)
    ]
    assert driven.loglikelihood_rolling(requests(("some text",))) == [rolling(own, "some text")]
    asked = [("Once", {"max_gen_toks": 5, "until": []})]
    assert driven.generate_until(requests(*asked)) == generated(own, asked)
    turns = [{"role": "user", "content": "Hello"}]
    assert driven.apply_chat_template(turns) == own.model.tokenizer.chat(turns)
    closed = driven.apply_chat_template(turns, add_generation_prompt=False)
    assert driven.apply_chat_template(turns).startswith(closed)
    assert driven.apply_chat_template(turns) != closed
    assert driven.chat_template(True) == own.model.tokenizer.template
    assert driven.chat_template(False) == ""
    assert "/" not in driven.tokenizer_name
