"""Whatever is guessed, the text is that of plain generation."""

import dataclasses
import random

import pytest

from strop.decoding import GREEDY, CachedSession, Sampling, collect, complete, generate
from strop.decoding.costs import PassCosts
from strop.decoding.drafters import Guess
from strop.decoding.lookup import Lookup
from strop.decoding.planner import Draft, Planner

SAMPLINGS = [
    GREEDY,
    Sampling(),
    Sampling(temperature=1.5, top_p=0.9, seed=3),
    Sampling(temperature=0, repetition_penalty=1.3),
    Sampling(temperature=1, stop=("a", "zz")),
    Sampling(temperature=0.7, logit_bias=((30, 4.0), (31, -9.0)), logprobs=True),
]


class Adversary:
    """Guesses what will come, but for random errors, and anything after the first of them."""

    name, seconds, priors = "adversary", 0.0, (0.9,)

    def __init__(self, answer, errors):
        self.answer, self.errors = list(answer), errors
        self.chance, self.done = random.Random(0), 0

    def start(self, prompt, sampling, session):
        self.done = 0

    def extend(self, tokens):
        self.done += len(tokens)

    def propose(self):
        for token in self.answer[self.done :] + [9] * 20:
            wrong = self.chance.random() < self.errors
            yield Guess(self.chance.randrange(250) if wrong else token, 0)


class AnyLength(Planner):
    """Checks a random number of guesses."""

    def __init__(self, costs, drafters):
        super().__init__(costs, drafters)
        self.chance = random.Random(1)

    def draft(self, limit, together=1):
        full = super().draft(limit, together)
        count = self.chance.randrange(len(full.guesses) + 1)
        return Draft(full.guesses[:count], full.drafter) if count else Draft()


def same(one, other):
    return dataclasses.replace(one, statistics=other.statistics) == other


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("errors", [0, 0.1, 0.5, 1])
def test_any_guesses_leave_the_text_as_it_is(fake, sampling, errors):
    prompt = [5, 9, 200, 31, 5, 9]
    sampling = dataclasses.replace(sampling, max_tokens=100)
    plain = complete(fake(), prompt, sampling)
    for planner in (Planner, AnyLength):
        drafters = [Adversary(plain.tokens, errors), Lookup()]
        chosen = planner(PassCosts([1.0] * 16), drafters)
        cache = CachedSession(fake().session())
        assisted = complete(fake(), prompt, sampling, cache, chosen)
        assert same(assisted, plain)
        assert cache.tokens == [*prompt, *plain.tokens[:-1]]
        cost = assisted.statistics
        assert sum(cost.accepted.values()) <= sum(cost.guessed.values())
        # Each pass gives a token of its own, and those that were guessed.
        assert cost.generated_tokens == 1 + cost.passes + sum(cost.accepted.values())


def test_right_guesses_save_passes(fake):
    plain = complete(fake(), [5, 9], Sampling(max_tokens=90))
    planner = Planner(PassCosts([1.0] * 16), [Adversary(plain.tokens, 0)])
    cost = complete(fake(), [5, 9], Sampling(max_tokens=90), None, planner).statistics
    assert plain.statistics.passes == len(plain.tokens) - 1
    assert cost.passes < plain.statistics.passes / 8
    assert cost.accepted == {"adversary": cost.generated_tokens - 1 - cost.passes}


def test_guessed_tokens_are_marked(fake):
    plain = complete(fake(), [5, 9], Sampling(max_tokens=40))
    planner = Planner(PassCosts([1.0] * 4), [Adversary(plain.tokens, 0)])
    deltas = list(generate(fake(), [5, 9], Sampling(max_tokens=40), None, planner))
    marks = [delta.drafter for delta in deltas]
    assert marks[:6] == [None, "adversary", "adversary", "adversary", None, "adversary"]
    assert (
        sum(mark is not None for mark in marks)
        == collect(iter(deltas)).statistics.accepted["adversary"]
    )


def test_an_answer_that_is_broken_off_can_be_continued(fake):
    sampling = Sampling(max_tokens=60)
    plain = complete(fake(), [5, 9], sampling)
    model = fake()
    cache = CachedSession(model.session())
    planner = Planner(PassCosts([1.0] * 16), [Adversary(plain.tokens, 0.2)])
    deltas = generate(model, [5, 9], sampling, cache, planner)
    for _ in range(10):
        next(deltas)
    deltas.close()
    again = complete(model, [5, 9], sampling, cache)
    assert same(again, plain)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_end_of_the_context(fake, length):
    model = fake()
    prompt = [5] * (model.context_length - length)
    plain = complete(fake(), prompt, Sampling())
    planner = Planner(PassCosts([1.0] * 16), [Adversary(plain.tokens, 0)])
    assert same(complete(model, prompt, Sampling(), None, planner), plain)
