"""Texts that are written together are those that are written alone."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.decoding import GREEDY, CachedSession, Sampling, complete, complete_many
from strop.decoding.costs import PassCosts
from strop.decoding.lookup import Lookup
from strop.decoding.planner import Planner, shared
from strop.decoding.verify import Noise
from strop.errors import StropError

PROMPTS = [[5, 9, 5, 9], [7], [], [1, 2, 3] * 5, [200, 31], [5] * 30]


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("guessing", [False, True])
def test_the_same_texts(fake, width, guessing):
    samplings = [
        Sampling(max_tokens=10 + 7 * index, temperature=0.7 * (index % 2), seed=index)
        for index in range(len(PROMPTS))
    ]

    def planner():
        return Planner(PassCosts([1.0 + 0.01 * row for row in range(16)]), [Lookup(), Noise(200)])

    found = dict(complete_many(fake(), PROMPTS, samplings, planner if guessing else None, width))
    assert sorted(found) == list(range(len(PROMPTS)))
    for index, prompt in enumerate(PROMPTS):
        alone = complete(fake(), prompt, samplings[index])
        assert found[index].tokens == alone.tokens
        assert found[index].text == alone.text
        assert found[index].finish_reason == alone.finish_reason
        cost = found[index].statistics
        assert cost.generated_tokens == 1 + cost.passes + sum(cost.accepted.values())


def test_what_all_prompts_begin_with_is_read_once(fake):
    model = fake()
    beginning = list(range(1, 31))
    prompts = [[*beginning, 40 + number, 50] for number in range(6)]
    samplings = [Sampling(max_tokens=3, seed=number) for number in range(6)]
    found = dict(complete_many(model, prompts, samplings, width=4))
    for number, prompt in enumerate(prompts):
        assert found[number].tokens == complete(fake(), prompt, samplings[number]).tokens
    assert model.passes.count(30) == 1
    assert max(one for one in model.passes if one != 30) < 8


def test_a_prompt_that_fills_the_context(fake):
    model = fake()
    full = [5] * model.context_length
    found = dict(complete_many(model, [full, [7]], [GREEDY, Sampling(max_tokens=4)]))
    assert found[0].finish_reason == "context"
    assert len(found[1].tokens) == 4


def test_errors_come_before_anything_is_computed(fake):
    model = fake()
    with pytest.raises(StropError, match="shorten the prompt"):
        complete_many(model, [[7], [5] * 1000], [GREEDY, GREEDY])
    assert model.passes == []


def test_what_a_guess_costs_where_texts_share_a_pass():
    seconds = [2.0, 2.2, 2.4, 2.6, 2.8, 3.0]
    assert shared(seconds, 1) == (seconds, 1.0)
    # Three texts: a fourth row makes 2.4 s into 2.6: worth it if it gives 3 * 0.2 / 2.4 tokens.
    passes, delay = shared(seconds, 3)
    assert passes[1] == pytest.approx(2.0 * (1 + 3 * (2.6 / 2.4 - 1)))
    assert delay == pytest.approx(3 * 2.0 / 2.4)  # a millisecond of drafting holds up three texts
    assert shared(seconds, 5)[0][4] == pytest.approx(2.0 * (1 + 5 * (3.6 / 2.8 - 1)))  # beyond


@pytest.mark.parametrize("width", [0, -1])
def test_no_texts_at_a_time_is_refused(fake, width):
    with pytest.raises(StropError, match="width must be at least 1"):
        complete_many(fake(), [[5]], [GREEDY], width=width)


def test_texts_go_on_while_the_next_prompt_is_read(fake, monkeypatch):
    """A pass reads of one prompt, in parts; those who write go along, and none waits."""
    model, passes = fake(), []
    one_pass = model.forward
    monkeypatch.setattr(sys.modules["strop.decoding.generate"], "PREFILL_CHUNK", 4)

    def counted(sessions, tokens, last=None):
        passes.append([len(ids) for ids in tokens])
        return one_pass(sessions, tokens, last)

    model.forward = counted
    prompts = [[number, 5, 6, 7, 8, 9, 10] for number in range(3)]
    samplings = [Sampling(max_tokens=5, seed=number) for number in range(3)]
    found = dict(complete_many(model, prompts, samplings, width=3))
    for number, prompt in enumerate(prompts):
        assert found[number].tokens == complete(fake(), prompt, samplings[number]).tokens
    assert passes == [[4], [3], [1, 4], [1, 3], [1, 1, 4], [1, 1, 3], [1, 1], [1, 1], [1], [1]]


def test_a_prompt_that_was_read_already_is_next(fake):
    prompts = [[5, 9], [5, 9, 7], [7, 9], [5, 9]]
    order = [number for number, _ in complete_many(fake(), prompts, [GREEDY] * 4, width=1)]
    assert order == [0, 3, 1, 2]


@given(*[st.lists(st.integers(0, 2), min_size=size, max_size=5) for size in (0, 1)])
def test_a_cache_holds_what_it_begins_with(tokens, prompt):
    cache = CachedSession(None)
    cache.tokens = tokens
    assert cache.holds(prompt) == (tokens[: len(prompt)] == prompt)
