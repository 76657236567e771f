"""Drafts by a head: it sees the state of the right row, and changes no text."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.decoding.packed_models import PROMPTS, SAMPLINGS
from tests.decoding.test_rejection import differ
from tests.models.test_draft_head import weights_for

from strop.decoding import Sampling, complete, complete_many, planner_for, rejection
from strop.decoding.costs import PassCosts
from strop.decoding.draft_model import guess_from
from strop.decoding.head import HeadDrafter
from strop.decoding.planner import Planner
from strop.decoding.verify import Noise, Reckless, compare
from strop.errors import StropError
from strop.models import load, pack
from strop.models.draft_head import write_draft_head

TOKENS = np.arange(3, 250)
RULED = [replace(one, rule=rule) for one in SAMPLINGS for rule in ("coupled", "rejection")]


@pytest.fixture(scope="module")
def packed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packed") / "model"
    pack(str(tiny_model), "bfp8", directory)
    weights = weights_for(64)
    rows = np.random.default_rng(0).standard_normal((len(TOKENS), 64)).astype(np.float32)
    weights["head"] = rows / 8
    write_draft_head(directory / "draft", weights, TOKENS, "bfp8", {})
    return directory


class Checked(HeadDrafter):
    """Compares the state that it is given with that of a new session."""

    checked = None  # while it is timed

    def start(self, prompt, sampling, session):
        super().start(prompt, sampling, session)
        self.tokens = list(prompt)

    def extend(self, tokens):
        super().extend(tokens)
        self.tokens += tokens
        if self.checked is None:
            return
        session = self.model.session()
        session.forward(self.tokens[:-1], last=1)
        assert np.array_equal(self.state, session.states[-1])
        self.checked += 1


def checked(packed, model):
    drafter = Checked(packed / "draft", model)
    drafter.model, drafter.checked = model, 0
    return drafter


def called(drafter, call, *arguments):
    """Errors of drafters are to be seen."""
    return call(*arguments)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_state_is_that_from_which_the_last_token_was_chosen(packed, sampling) -> None:
    model = load(str(packed))
    drafter = checked(packed, model)
    planner = Reckless([drafter, Noise(model.vocabulary)])
    planner.safely = called
    complete(model, PROMPTS[0], sampling, planner=planner)
    assert drafter.checked > 20
    drafters = []

    def new_planner():
        drafters.append(checked(packed, model))
        planner = Reckless([drafters[-1], Noise(model.vocabulary)])
        planner.safely = called
        return planner

    assert len(list(complete_many(model, PROMPTS, [sampling] * 3, new_planner, width=2))) == 3
    assert sum(one.checked for one in drafters) > 60


@given(st.integers(0, 2**32 - 1), st.sampled_from(RULED), st.booleans())
def test_logits_of_some_tokens_give_the_guess_that_others_cannot_be(seed, sampling, biased) -> None:
    """A guess among some tokens is that among all, of which the others are impossible."""
    random = np.random.default_rng(seed)
    named = np.sort(random.choice(60, size=random.integers(1, 40), replace=False))
    history = random.integers(0, 60, 30)
    whole = np.full(60, -np.inf, np.float32)
    whole[named] = 3 * random.standard_normal(len(named))
    places = np.full(60, -1)
    places[named] = np.arange(len(named))
    bias = ((int(named[0]), 2.5),) if biased else ()
    moved = tuple((int(places[token]), value) for token, value in bias)
    seen = places[history]
    found = guess_from(whole[named], seen[seen >= 0], replace(sampling, logit_bias=moved), 5, named)
    expected = guess_from(whole, history, replace(sampling, logit_bias=bias), 5)
    assert found[:2] == expected[:2]
    if expected.law is not None:
        assert np.array_equal(found.law.tokens, expected.law.tokens)
        assert np.array_equal(found.law.probabilities, expected.law.probabilities)


def test_no_text_is_changed(packed) -> None:
    model = load(str(packed))
    drafter = HeadDrafter(packed / "draft", model)
    rows = list(compare(model, PROMPTS, SAMPLINGS, lambda: Reckless([drafter])))
    assert [row.first_difference for row in rows] == [None] * len(rows)
    assert sum(row.guessed for row in rows) > 100


def class_of(model, context, token, guessable):
    """Sort a token by its probability into four classes, and by whether the head has it."""
    session = model.session()
    logits = session.forward(context, last=1)[0]
    likely = int(np.searchsorted(np.quantile(logits, [0.8, 0.95, 0.99]), logits[token]))
    return 2 * likely + (token in guessable)


def classes(model, rule, drafter, guessable, tries=3000):
    """How often each class of second tokens comes."""
    planner = drafter and Reckless([drafter])
    counts = np.zeros(8)
    for seed in range(tries):
        sampling = Sampling(
            temperature=1, min_p=0, repetition_penalty=1, max_tokens=3,
            seed=seed + 10**6 * (rule == "rejection"), rule=rule,
        )  # fmt: skip
        tokens = complete(model, [5, 9], sampling, planner=planner).tokens
        if len(tokens) > 1:
            counts[class_of(model, [5, 9, tokens[0]], tokens[1], guessable)] += 1
    return counts


@pytest.mark.parametrize("residual", [None, lambda law, drafted: law])
def test_the_rejection_rule_keeps_the_distribution(packed, tmp_path, monkeypatch, residual) -> None:
    model = load(str(packed))
    guessable = np.arange(3, 250, 3)
    weights = weights_for(64)
    random = np.random.default_rng(1)
    weights["head"] = random.standard_normal((len(guessable), 64)).astype(np.float32) / 8
    write_draft_head(tmp_path / "draft", weights, guessable, "bfp8", {})
    drafter = HeadDrafter(tmp_path / "draft", model)
    if residual:
        monkeypatch.setattr(rejection, "residual", residual)
    plain = classes(model, "coupled", None, set(guessable))
    found = classes(model, "rejection", drafter, set(guessable))
    rare = 24.3  # exceeded once in a thousand times with 7 degrees of freedom
    chi_square = differ(plain, found)
    assert chi_square < rare if residual is None else chi_square > 2 * rare


def test_guesses_are_tokens_that_the_head_has(packed) -> None:
    model = load(str(packed))
    drafter, session = HeadDrafter(packed / "draft", model), model.session()
    session.forward(PROMPTS[1])
    drafter.start(PROMPTS[1], SAMPLINGS[1], session)
    drafter.extend([5])
    proposed = drafter.propose()
    guesses = [next(proposed) for _ in range(5)]
    assert all(guess.token in TOKENS for guess in guesses)
    assert drafter.seconds > 0


def test_a_head_beside_the_model_is_used(packed, tmp_path: Path) -> None:
    model = load(str(packed))
    assert [one.name for one in planner_for(model).drafters] == ["lookup", "head"]
    by_path = planner_for(model, str(packed / "draft"))
    assert [one.name for one in by_path.drafters] == ["lookup", "head"]
    write_draft_head(tmp_path / "other", weights_for(96), np.arange(17), "bfp8", {})
    with pytest.raises(StropError, match="not made for"):
        planner_for(model, str(tmp_path / "other"))


def test_a_head_needs_the_native_backend(packed) -> None:
    with pytest.raises(StropError, match="native backend"):
        planner_for(load(str(packed), "torch"), str(packed / "draft"))


def test_the_planner_stops_asking_a_head_that_is_never_right(packed) -> None:
    model = load(str(packed))
    drafter = HeadDrafter(packed / "draft", model)
    drafter.seconds = 0.001
    planner = Planner(PassCosts([0.006, 0.0061, 0.0062]), [drafter])
    # Greedily: where noise decides more than the model does, those who see the same noise agree.
    sampling = Sampling(max_tokens=400, temperature=0, min_p=0, repetition_penalty=1)
    cost = complete(model, [5], sampling, planner=planner).statistics
    assert cost.generated_tokens > 200
    assert planner.asked["head"] < 100


def test_a_head_that_computes_no_numbers_is_named_and_done_without(
    packed, tmp_path, capsys
) -> None:
    model = load(str(packed))
    weights = weights_for(64)
    weights["mlp_norm"] = weights["mlp_norm"] * np.float32(1e38)
    weights["head"] = np.ones((len(TOKENS), 64), np.float32)
    write_draft_head(tmp_path / "bad", weights, TOKENS, "bfp8", {})
    with pytest.raises(StropError, match=r"bad: does not compute numbers .*: make it again"):
        planner_for(model, str(tmp_path / "bad"))
    shutil.copytree(packed, tmp_path / "model")
    for damage in (lambda place: shutil.copytree(tmp_path / "bad", place), Path.mkdir):
        shutil.rmtree(tmp_path / "model" / "draft")
        damage(tmp_path / "model" / "draft")
        (tmp_path / "model" / "draft" / "config.json").touch()
        again = load(str(tmp_path / "model"))
        assert [one.name for one in planner_for(again).drafters] == ["lookup"]
        assert capsys.readouterr().err.count("going on without the draft head") == 1


def test_a_bias_for_a_token_that_there_is_none_of_is_the_samplings_error(packed, capsys) -> None:
    model = load(str(packed))
    sampling = Sampling(logit_bias={10**6: 1.0})
    with pytest.raises(StropError, match="logit_bias: no token 1000000"):
        complete(model, [5], sampling, planner=planner_for(model))
    assert "failed" not in capsys.readouterr().err


def test_a_head_for_a_model_of_small_context(tiny_model: Path, packed, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"max_position_embeddings": 12}))
    model = load(str(tmp_path / "model"))
    planner = planner_for(model)
    assert [one.name for one in planner.drafters] == ["lookup", "head"]
    assert complete(model, [5], planner=planner).tokens == complete(model, [5]).tokens
