import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop import _native
from strop.decoding.sampling import GREEDY, Sampling, candidates, log_probability, sample
from strop.errors import StropError, StropFailure

PLAIN = Sampling(temperature=1, min_p=0, repetition_penalty=1)  # nothing but the softmax


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def distribution(logits, history, sampling):
    """The distribution that `sample` draws from, over the whole vocabulary."""
    tokens, scores = candidates(logits, history, sampling, 0)
    result = np.zeros(len(logits))
    result[tokens] = softmax(scores)
    return result


SETTINGS = [
    {"temperature": 0.7},
    {"temperature": 1.7, "repetition_penalty": 1.3},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 5000},
    {"top_p": 0.9},
    {"top_p": 0.3, "temperature": 2.5},
    {"top_p": 1e-9},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"repetition_penalty": 0.8},
    {"temperature": 0.6, "top_k": 50, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 3.0, "top_k": 100, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.1},
]


def reference(logits, history, sampling):
    """The distribution according to transformers' own processors, in the order of generate()."""
    import torch
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    chain.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(MinPLogitsWarper(float(sampling.min_p)))
    scores = chain(torch.tensor([history]), torch.tensor(logits)[None])
    return torch.softmax(scores.double(), -1)[0].numpy()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_filters_equal_those_of_transformers(settings):
    sampling = dataclasses.replace(PLAIN, **settings)
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 4.0):
        for _ in range(10):
            logits = (rng.standard_normal(1000) * scale).astype(np.float32)
            history = rng.integers(0, 1000, 60).tolist()
            ours = distribution(logits, history, sampling)
            theirs = reference(logits, history, sampling)
            np.testing.assert_array_equal(ours > 0, theirs > 0)
            np.testing.assert_allclose(ours, theirs, rtol=2e-5)


def test_equals_at_the_edge_of_top_k_all_stay_as_in_transformers():
    logits = np.array([1, 3, 2, 2, 2, 0], dtype=np.float32)
    sampling = dataclasses.replace(PLAIN, top_k=2)
    assert candidates(logits, [], sampling, 0)[0].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(
        distribution(logits, [], sampling), reference(logits, [], sampling), rtol=1e-6
    )


def plain_nucleus(logits, top_p):
    """Sort everything, walk from the top."""
    probabilities = softmax(logits.astype(np.float64))
    kept, held = [], 0.0
    for token in sorted(range(len(logits)), key=lambda t: (-probabilities[t], t)):
        if kept and held >= top_p:
            break
        kept.append(token)
        held += probabilities[token]
    return sorted(kept)


@given(
    logits=st.lists(st.integers(-8, 8), min_size=1, max_size=40),
    top_p=st.floats(0.01, 0.99),
)
def test_top_p_equals_a_full_sort(logits, top_p):
    logits = np.array(logits, dtype=np.float32)
    tokens = candidates(logits, [], dataclasses.replace(PLAIN, top_p=top_p), 0)[0]
    expected = plain_nucleus(logits, top_p)
    if len(tokens) != len(expected):  # a sum within rounding of top_p may fall to either side
        held = softmax(logits.astype(np.float64))[expected].sum()
        less = held - softmax(logits.astype(np.float64))[expected].min()
        assert min(abs(held - top_p), abs(less - top_p)) < 1e-12
    else:
        assert tokens.tolist() == expected


def plain_candidates(logits, history, penalty, temperature, top_k, floor):
    """Penalize a copy, score everything, filter the scores."""
    penalized = logits.copy()
    for token in history:
        if 0 <= token < len(logits):
            one = logits[token]
            penalized[token] = one * penalty if one < 0 else one / penalty
    best = penalized.max()
    if not np.isfinite(best):
        return [], []
    if temperature == 0:
        return [int(np.argmax(penalized))], [0.0]
    scores = (penalized.astype(np.float64) - float(best)) / temperature
    last = sorted(scores)[-top_k] if 0 < top_k < len(scores) else -np.inf
    tokens = [t for t, one in enumerate(scores) if one >= max(floor, last)]
    return tokens, scores[tokens].tolist()


@given(
    size=st.integers(1, 3000),
    seed=st.integers(0, 2**32),
    steps=st.sampled_from([1, 1000]),
    kind=st.sampled_from([np.float32, np.float64]),
    history=st.lists(st.integers(-2, 3000), max_size=9),
    penalty=st.sampled_from([1.0, 1.25, 0.5]),
    temperature=st.sampled_from([0.0, 1e-300, 0.3, 1.5]),
    top_k=st.sampled_from([0, 1, 2, 5, 100, 10**6]),
    floor=st.sampled_from([0.0, -1.5, -np.inf]),
    wrong=st.sampled_from([None, -np.inf, np.nan, np.inf]),
)
def test_candidates_equal_a_plain_search(
    size, seed, steps, kind, history, penalty, temperature, top_k, floor, wrong
):
    rng = np.random.default_rng(seed)
    logits = (np.round(rng.normal(0, 3, size) * steps) / steps).astype(kind)  # with many equals
    if wrong is not None:
        logits[rng.integers(size)] = wrong
    with np.errstate(invalid="ignore", over="ignore"):
        expected = plain_candidates(logits, history, kind(penalty), temperature, top_k, floor)
    found = _native.candidates(
        logits, np.array(history, np.int64), penalty, temperature, top_k, floor
    )
    assert tuple(part.tolist() for part in found) == expected


def test_a_large_bias_leaves_the_differences_as_they_were():
    logits = np.array([1.0, 2.03, 2.0, 9.0], np.float32)
    lifted = Sampling(temperature=0, logit_bias={0: 1e6, 1: 1e6, 2: 1e6})
    assert sample(logits, [], lifted, 0, 0) == 1


@pytest.mark.parametrize("top_k", [4, 2**63, 10**30])
def test_a_top_k_beyond_the_vocabulary_keeps_all(top_k):
    logits = np.array([1.0, 2.0, 0.0, 3.0], np.float32)
    sampling = dataclasses.replace(PLAIN, top_k=top_k)
    assert candidates(logits, [], sampling, 0)[0].tolist() == [0, 1, 2, 3]


def chi_square(sampling, expected, draws=8000, seed=5):
    logits = np.log(np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.04, 0.03, 0.02, 0.01]))
    counts = np.zeros(len(logits))
    for position in range(draws):
        counts[sample(logits, [], sampling, seed, position)] += 1
    expected = expected(logits) * draws
    return np.sum((counts - expected) ** 2 / expected)


CRITICAL_9 = 27.88  # chi-square with 9 degrees of freedom, p = 0.001


def test_frequencies_match_the_softmax():
    assert chi_square(PLAIN, softmax) < CRITICAL_9
    warm = dataclasses.replace(PLAIN, temperature=1.5)
    assert chi_square(warm, lambda logits: softmax(logits / 1.5)) < CRITICAL_9


def test_frequencies_of_a_wrong_temperature_do_not():
    wrong = dataclasses.replace(PLAIN, temperature=1.1)
    assert chi_square(wrong, softmax) > CRITICAL_9


def pair_chi_square(second_position):
    """Test the independence of two draws from four equally likely tokens."""
    counts = np.zeros((4, 4))
    for position in range(3200):
        first = sample(np.zeros(4), [], PLAIN, 0, 2 * position)
        counts[first, sample(np.zeros(4), [], PLAIN, 0, second_position(2 * position))] += 1
    return np.sum((counts - 200) ** 2 / 200)


def test_neighbouring_positions_are_independent():
    assert pair_chi_square(lambda position: position + 1) < 37.7  # 15 degrees, p = 0.001
    assert pair_chi_square(lambda position: position) > 37.7  # the same noise is not


def test_the_same_arguments_give_the_same_token_in_any_order():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((50, 300)).astype(np.float32)
    sampling = Sampling(temperature=1.2)
    forwards = [sample(row, [1, 2], sampling, 9, position) for position, row in enumerate(rows)]
    backwards = [sample(rows[p], np.array([1, 2]), sampling, 9, p) for p in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [sample(row, [1, 2], sampling, 10, p) for p, row in enumerate(rows)]
    assert forwards != [sample(row, [1, 2], sampling, 9, p + 1) for p, row in enumerate(rows)]


def test_the_arguments_are_left_alone():
    logits = np.arange(10, dtype=np.float32)
    logits.flags.writeable = False
    history = [1, 9]
    assert 0 <= sample(logits, history, Sampling(top_k=5, top_p=0.9), 0, 0) < 10
    assert history == [1, 9]
    assert np.array_equal(logits, np.arange(10))


def test_a_drafter_with_other_logits_sees_the_same_noise():
    # Daliri et al. 2024: with shared noise two distributions agree at least
    # (1 - TV) / (1 + TV) of the time, TV being their total variation distance.
    rng = np.random.default_rng(2)
    agreed = apart = bound = 0.0
    for position in range(2000):
        target = rng.normal(0, 2, 500)
        draft = target + rng.normal(0, 0.5, 500)
        distance = 0.5 * np.abs(softmax(target) - softmax(draft)).sum()
        bound += (1 - distance) / (1 + distance)
        choice = sample(target, [], PLAIN, 0, position)
        agreed += choice == sample(draft, [], PLAIN, 0, position)
        apart += choice == sample(draft, [], PLAIN, 1, position)
    assert agreed > bound - 3 * np.sqrt(2000) / 2
    assert apart < 0.5 * bound  # the control: other noise


def test_greedy_takes_the_best_and_the_lowest_of_equals():
    assert sample(np.array([1.0, 5.0, 5.0, 2.0]), [], GREEDY, 0, 0) == 1
    penalty = dataclasses.replace(GREEDY, repetition_penalty=3)
    assert sample(np.array([1.0, 5.0, 4.0, 2.0]), [1], penalty, 0, 0) == 2
    assert sample(np.array([-1.0, -2.0, -9.0]), [0], penalty, 0, 0) == 1


def test_a_tiny_temperature_is_greedy():
    logits = np.array([0.0, 2.0, 1.999], dtype=np.float32)
    cold = dataclasses.replace(PLAIN, temperature=1e-300)
    assert all(sample(logits, [], cold, 0, position) == 1 for position in range(100))


def test_excluded_tokens_are_never_chosen():
    logits = np.full(50, -np.inf)
    logits[[3, 8]] = 0
    for sampling in (PLAIN, Sampling(), Sampling(top_p=0.9, top_k=10), GREEDY):
        assert {sample(logits, [3], sampling, 0, p) for p in range(50)} <= {3, 8}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("sampling", [GREEDY, PLAIN, Sampling()])
def test_logits_that_are_not_finite_are_a_failure_that_names_the_position(bad, sampling):
    logits = np.zeros(10, dtype=np.float32)
    logits[4] = bad
    with pytest.raises(StropFailure, match="position 12"):
        sample(logits, [], sampling, 0, 12)
    with pytest.raises(StropFailure, match="position 3"):
        sample(np.full(10, -np.inf), [], sampling, 0, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-308),  # would make logits infinite
        ("stop", "END"),
        ("stop", ("",)),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(StropError, match=f"^{name} must be .*, not") as caught:
        Sampling(**{name: value})
    assert "\n" not in str(caught.value)


def test_stop_strings_come_as_a_list_from_yaml():
    assert Sampling(stop=["a", "b"]) == Sampling(stop=("a", "b"))
    assert hash(Sampling(stop=["a"])) == hash(Sampling(stop=("a",)))


def test_a_bias_is_added_before_anything_else():
    logits = np.array([1.0, 2.0, 3.0, 0.0], np.float32)
    biased = Sampling(temperature=0, logit_bias={3: 10.0, 2: -5.0})
    assert biased.logit_bias == ((3, 10.0), (2, -5.0))
    assert sample(logits, [], biased, 0, 0) == 3
    for position in range(50):
        settings = Sampling(temperature=1, min_p=0, repetition_penalty=1, logit_bias={1: -2.0})
        same = Sampling(temperature=1, min_p=0, repetition_penalty=1)
        moved = logits + np.array([0, -2, 0, 0], np.float32)
        assert sample(logits, [], settings, 7, position) == sample(moved, [], same, 7, position)
    with pytest.raises(StropError, match="no token 9: the model has 4"):
        sample(logits, [], Sampling(logit_bias={9: 1.0}), 0, 0)
    with pytest.raises(StropError, match="mapping of token ids to numbers"):
        Sampling(logit_bias={-1: 1.0})


def test_log_probabilities_are_those_of_the_model_itself():
    logits = np.array([1000.0, 1001.0, 999.0], np.float32)
    expected = np.log(np.exp([0.0, 1.0, -1.0]) / np.exp([0.0, 1.0, -1.0]).sum())
    assert [log_probability(logits, token) for token in range(3)] == pytest.approx(expected)
