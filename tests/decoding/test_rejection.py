"""The rejection rule keeps the distribution, by a test that finds out a wrong one."""

import numpy as np
import pytest

from strop.decoding import GREEDY, Sampling, complete, rejection
from strop.decoding.costs import PassCosts
from strop.decoding.drafters import Guess, Law
from strop.decoding.planner import Planner
from strop.decoding.rejection import accept_or_replace, draw_guess, law_of, residual

TRIES = 4000


def frequencies(logits, draft_logits, tries=TRIES):
    """How often each token comes when it is guessed by other logits."""
    counts = np.zeros(len(logits), int)
    for seed in range(tries):
        sampling = Sampling(
            temperature=1, min_p=0, repetition_penalty=1, rule="rejection", seed=seed
        )
        law = law_of(draft_logits, [], sampling, 0)
        guess = Guess(draw_guess(law, seed, 7), 0, law)
        counts[accept_or_replace(logits, [], sampling, 7, guess)] += 1
    return counts


#: Values that chi-square exceeds by chance once in a thousand times, by degrees of freedom.
RARE = {2: 13.8, 5: 20.5, 15: 37.7}


def chi_square(counts, logits):
    expected = np.exp(logits.astype(np.float64) - logits.max())
    expected *= counts.sum() / expected.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("likeness", [0.0, 0.5, 1.0])
def test_tokens_are_distributed_as_the_model_says(seed, likeness):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, 6).astype(np.float32)
    draft = (likeness * logits + (1 - likeness) * random.normal(0, 1.5, 6)).astype(np.float32)
    assert chi_square(frequencies(logits, draft), logits) < RARE[5]


def test_a_wrong_residual_is_found_out(monkeypatch):
    monkeypatch.setattr(rejection, "residual", lambda law, drafted: law)
    logits = np.array([2, 1, 0, 0, -1, -1], np.float32)
    assert chi_square(frequencies(logits, logits[::-1].copy()), logits) > 2 * RARE[5]


def test_noise_shared_between_drawing_and_replacing_is_found_out(monkeypatch):
    monkeypatch.setattr(rejection, "REPLACE", rejection.DRAFT)
    logits = np.log(np.array([0.45, 0.45, 0.10], np.float32))
    draft = np.log(np.array([0.27, 0.01, 0.72], np.float32))
    assert chi_square(frequencies(logits, draft), logits) > 2 * RARE[2]


def test_a_certain_guess_is_taken_as_often_as_it_is_likely():
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    counts = np.zeros(3, int)
    for seed in range(TRIES):
        sampling = Sampling(
            temperature=1, min_p=0, repetition_penalty=1, rule="rejection", seed=seed
        )
        counts[accept_or_replace(logits, [], sampling, 3, Guess(1, 0))] += 1
    assert chi_square(counts, logits) < RARE[2]


def test_a_residual_has_no_token_that_was_likelier_in_the_draft():
    p = Law(np.array([1, 4, 6]), np.array([0.5, 0.3, 0.2]))
    q = Law(np.array([1, 5, 6]), np.array([0.2, 0.5, 0.3]))
    rest = residual(p, q)
    assert rest.tokens.tolist() == [1, 4, 6]
    assert np.allclose(rest.probabilities, [0.5, 0.5, 0])
    assert residual(p, p) is p


class Drawn:
    """Draws guesses from other logits than the model's."""

    name, seconds, priors = "drawn", 0.001, (0.9,)

    def __init__(self, model):
        self.model = model

    def start(self, prompt, sampling, session):
        self.tokens, self.sampling = list(prompt), sampling

    def extend(self, tokens):
        self.tokens += tokens

    def propose(self):
        text = list(self.tokens)
        while True:
            logits = 0.7 * self.model.logits(text)
            law = law_of(logits, text, self.sampling, len(text))
            guess = Guess(draw_guess(law, self.sampling.seed, len(text)), 0, law)
            yield guess
            text.append(guess.token)


class DropsBadOnes(Planner):
    """Leaves out what turned out to be unlikely, which this rule does not allow."""

    def explore(self, drafter, limit, seconds, least, delay):
        guesses, length, speed = super().explore(drafter, limit, seconds, least, delay)
        kept = 0
        for guess in guesses[:length]:
            if guess.law.probabilities[guess.law.tokens == guess.token].sum() < 0.03:
                break
            kept += 1
        return guesses, kept, speed


def level(model, context, token):
    """Sort a token by its probability into four classes."""
    logits = model.logits(context)
    probability = np.exp(logits[token] - logits.max()) / np.exp(logits - logits.max()).sum()
    return int(np.searchsorted([0.01, 0.03, 0.06], probability))


def classes(model, rule, planner, tries):
    """How often each of 16 classes of the 2nd and 3rd token comes, by how likely they were."""
    counts = np.zeros(16)
    for seed in range(tries):
        sampling = Sampling(
            temperature=1, min_p=0.02, repetition_penalty=1, max_tokens=3,
            seed=seed + 10**6 * (rule == "rejection"), rule=rule,
        )  # fmt: skip
        tokens = complete(model, [5, 9], sampling, planner=planner and planner()).tokens
        one, two = (level(model, [5, 9, *tokens[:index]], tokens[index]) for index in (1, 2))
        counts[4 * one + two] += 1
    return counts


def differ(one, other):
    """Chi-square of two rows of counts, equally many in each."""
    return float(((one - other) ** 2 / np.maximum(one + other, 1)).sum())


@pytest.mark.parametrize(("kind", "alike"), [(Planner, True), (DropsBadOnes, False)])
def test_whole_texts_are_distributed_as_plain_ones(fake, kind, alike):
    model = fake()
    plain = classes(model, "coupled", None, 3000)
    costs = PassCosts([1.0, 1.05, 1.1, 1.15])
    found = classes(model, "rejection", lambda: kind(costs, [Drawn(model)]), 3000)
    assert (differ(plain, found) < RARE[15]) == alike


def test_at_temperature_zero_it_is_the_likeliest_token(fake):
    plain = complete(fake(), [5, 9], GREEDY)
    sampling = Sampling(temperature=0, min_p=0, repetition_penalty=1, rule="rejection")
    model = fake()
    planner = Planner(PassCosts([1.0, 1.05, 1.1, 1.15]), [Drawn(model)])
    assert complete(model, [5, 9], sampling, planner=planner).tokens == plain.tokens
