import dataclasses
import json

import pytest

from strop.decoding import (
    GREEDY,
    CachedSession,
    Sampling,
    collect,
    complete,
    generate,
    sample,
)
from strop.decoding.generate import beginning
from strop.errors import StropError, StropFailure


def plain(model, prompt, sampling):
    """The loop without session, cache or streaming: recompute, sample, append."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < sampling.max_tokens and len(tokens) < model.context_length:
        logits = model.logits(tokens)
        tokens.append(sample(logits, tokens, sampling, sampling.seed, len(tokens)))
        if tokens[-1] in model.tokenizer.end_ids:
            break
    return tuple(tokens[len(prompt) :])


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(), Sampling(seed=3), Sampling(temperature=1.5, top_p=0.9, max_tokens=60)],
)
def test_the_loop_equals_a_plain_one(fake, sampling):
    sampling = dataclasses.replace(sampling, max_tokens=80)
    prompt = [5, 9, 200, 31]
    completion = complete(fake(), prompt, sampling)
    assert completion.tokens == plain(fake(), prompt, sampling)
    assert completion.text == fake().tokenizer.decode(completion.tokens)
    assert completion == dataclasses.replace(
        complete(fake(), prompt, sampling), statistics=completion.statistics
    )


def test_another_seed_gives_another_text(fake):
    texts = {complete(fake(), [5, 9], Sampling(seed=seed, max_tokens=30)).text for seed in range(5)}
    assert len(texts) == 5


def test_text_is_streamed_as_it_is_chosen(fake):
    model = fake(script="one two")
    model.prompt_length = 1
    deltas = generate(model, [7], GREEDY)
    assert [next(deltas).text for _ in range(3)] == ["o", "n", "e"]
    assert model.passes == [1, 1, 1]  # nothing was computed ahead of what was asked for


def test_ends_at_the_end_token_and_does_not_show_it(fake):
    model = fake(script="fin")
    model.prompt_length = 2
    completion = complete(model, [7, 7], GREEDY)
    assert (completion.text, completion.finish_reason) == ("fin", "end")
    assert completion.tokens[-1] in model.tokenizer.end_ids
    assert len(completion.tokens) == completion.statistics.generated_tokens == 4


@pytest.mark.parametrize(
    ("stops", "text", "reason"),
    [
        (("two",), "one ", "stop"),
        (("e tw",), "on", "stop"),
        (("three", "e"), "on", "stop"),
        (("one",), "", "stop"),
        (("日本",), "one two ", "stop"),
        (("two three", "one."), "one two 日本", "end"),
    ],
)
def test_ends_before_a_stop_string_that_spans_tokens(fake, stops, text, reason):
    model = fake(script="one two 日本")
    model.prompt_length = 1
    completion = complete(model, [7], dataclasses.replace(GREEDY, stop=stops))
    assert (completion.text, completion.finish_reason) == (text, reason)


@pytest.mark.parametrize("length", range(1, 8))
def test_held_back_text_appears_at_the_end(fake, length):
    model = fake(script="ab日c")  # six tokens, three of them one character; then the end token
    model.prompt_length = 1
    sampling = dataclasses.replace(GREEDY, stop=("b日c!",), max_tokens=length)
    completion = complete(model, [7], sampling)
    assert completion.text == model.tokenizer.decode(completion.tokens)
    assert completion.finish_reason == ("end" if length == 7 else "length")
    shown = [delta.text for delta in generate(model, [7], sampling)]
    assert not any(shown[1:-1])  # all of it could still be the stop string


def test_ends_when_the_context_is_full(fake):
    model = fake(context_length=20)
    completion = complete(model, range(2, 17), GREEDY)
    assert (len(completion.tokens), completion.finish_reason) == (5, "context")
    assert sum(model.passes) == 19  # the last token needs no pass
    full = complete(fake(context_length=15), range(2, 17), GREEDY)
    assert (full.tokens, full.text, full.finish_reason) == ((), "", "context")
    exact = complete(
        fake(context_length=20), range(2, 17), dataclasses.replace(GREEDY, max_tokens=5)
    )
    assert exact.finish_reason == "length"


def test_a_prompt_longer_than_the_context_names_both_numbers(fake):
    with pytest.raises(StropError, match=r"21 tokens.*holds 20"):
        generate(fake(context_length=20), range(2, 23))


def test_an_empty_prompt_starts_from_the_beginning_token(fake):
    sampling = dataclasses.replace(GREEDY, max_tokens=5)
    assert complete(fake(), [], sampling).tokens == complete(fake(), [0], sampling).tokens


def test_without_a_beginning_token_an_empty_prompt_starts_from_the_end_of_a_text(fake):
    model = fake(bos=False)
    model.tokenizer.tokens["eos_token"] = "<end>"
    assert beginning(model) == 1
    assert beginning(fake()) == 0
    sampling = dataclasses.replace(GREEDY, max_tokens=5)
    assert complete(model, [], sampling).tokens == complete(fake(), [1], sampling).tokens
    with pytest.raises(StropError, match="prompt is empty"):
        generate(fake(bos=False), [])


def test_logits_that_are_not_finite_name_their_position(fake):
    model = fake()
    model.bad_position = 9
    with pytest.raises(StropFailure, match="position 9"):
        complete(model, [4, 5, 6], GREEDY)


def test_long_prompts_are_read_in_chunks(fake):
    prompt = [2 + i % 250 for i in range(1100)]
    model = fake(context_length=1200)
    completion = complete(model, prompt, dataclasses.replace(GREEDY, max_tokens=10))
    assert model.passes[:3] == [512, 512, 76]
    assert completion.tokens == plain(model, prompt, dataclasses.replace(GREEDY, max_tokens=10))


@pytest.mark.parametrize("shared", [0, 1, 7, 20])
def test_a_cache_saves_the_common_prefix_and_changes_nothing(fake, shared):
    sampling = Sampling(max_tokens=12)
    first = [2 + i for i in range(20)]
    second = first[:shared] + [100 + i for i in range(20 - shared)]
    model = fake()
    cache = CachedSession(model.session())
    complete(model, first, sampling, cache)
    model.passes.clear()
    completion = complete(model, second, sampling, cache)
    reused = min(shared, 19)  # the last token is computed again: its logits are needed
    assert completion.statistics.reused_tokens == reused
    assert model.passes[0] == 20 - reused
    assert completion.tokens == complete(fake(), second, sampling).tokens
    assert cache.tokens == [*second, *completion.tokens[:-1]]


def test_statistics_count_and_become_json(fake):
    completion = complete(fake(), [4, 5, 6], dataclasses.replace(GREEDY, max_tokens=7))
    cost = completion.statistics
    assert (cost.prompt_tokens, cost.reused_tokens, cost.generated_tokens) == (3, 0, 7)
    assert cost.decode_speed == pytest.approx(6 / cost.decode_seconds)
    assert cost.prefill_speed == pytest.approx(3 / cost.prefill_seconds)
    value = json.loads(json.dumps(completion.to_json()))
    assert value["statistics"]["generated_tokens"] == 7
    assert value["tokens"] == list(completion.tokens)
    single = complete(fake(), [4, 5, 6], dataclasses.replace(GREEDY, max_tokens=1))
    assert single.statistics.decode_speed is None  # its logits came with the prompt


def test_an_unfinished_generation_is_not_a_completion(fake):
    deltas = [delta for delta, _ in zip(generate(fake(), [4]), range(3), strict=False)]
    with pytest.raises(ValueError, match="broken off"):
        collect(iter(deltas))
