import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.errors import StropError
from strop.stats import bootstrap, mean, paired_difference, ratio, verdict
from strop.stats.resampling import student_quantile, tail_probability


def test_equals_a_plain_loop():
    rng = np.random.default_rng(5)
    rows = rng.gamma(2.0, size=(12, 2))
    interval = bootstrap(rows, ratio, resamples=500, seed=9)

    picks = np.random.default_rng(9).integers(0, 12, (500, 12))
    values = sorted(sum(rows[i, 0] for i in pick) / sum(rows[i, 1] for i in pick) for pick in picks)
    tail = tail_probability(12, 0.95)
    assert interval.low == pytest.approx(np.quantile(values, tail), rel=1e-12)
    assert interval.high == pytest.approx(np.quantile(values, 1 - tail), rel=1e-12)
    assert interval.estimate == pytest.approx(rows[:, 0].sum() / rows[:, 1].sum(), rel=1e-12)
    assert (interval.n, interval.level) == (12, 0.95)


def test_the_interval_of_the_exponential_is_the_exponential_of_the_interval():
    rows = np.random.default_rng(1).normal(3.0, 0.2, 50)
    plain = bootstrap(rows)
    exponential = bootstrap(rows, lambda rows: np.exp(mean(rows)))
    assert exponential.low == pytest.approx(math.exp(plain.low), rel=1e-4)
    assert exponential.high == pytest.approx(math.exp(plain.high), rel=1e-4)


def test_equal_arguments_give_equal_intervals_and_the_seed_matters():
    rows = np.random.default_rng(2).normal(size=30)
    assert bootstrap(rows, seed=4) == bootstrap(rows, seed=4)
    assert bootstrap(rows, seed=4) != bootstrap(rows, seed=5)


def test_batches_do_not_change_the_number_of_resamples(monkeypatch):
    monkeypatch.setattr("strop.stats.resampling.BATCH", 70)
    seen = []

    def counted(rows):
        seen.append(len(rows))
        return mean(rows)

    bootstrap(np.arange(10.0), counted, resamples=100)
    assert seen == [7] * 14 + [2] + [1]  # the last is the estimate itself


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.floats(-1e3, 1e3))
def test_lies_within_the_sample_and_moves_with_it(values, shift):
    interval = bootstrap(values, resamples=200)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack
    moved = bootstrap([value + shift for value in values], resamples=200)
    assert moved.low == pytest.approx(interval.low + shift, abs=1e-7 * (1 + abs(shift)) + slack)


@given(st.floats(0.1, 1e6), st.integers(2, 50))
@settings(max_examples=30, deadline=None)
def test_constant_samples_have_no_width(value, n):
    interval = bootstrap([value] * n, resamples=100)
    assert interval.low == interval.estimate == interval.high


def test_smaller_samples_are_cut_less():
    tails = [tail_probability(n, 0.95) for n in (4, 8, 32, 1000)]
    assert tails == sorted(tails)
    assert tails[-1] == pytest.approx(0.025, abs=2e-4)


@pytest.mark.parametrize(  # Student's t, any textbook's table
    ("probability", "freedom", "value"),
    [(0.975, 3, 3.182), (0.975, 7, 2.365), (0.95, 10, 1.812), (0.995, 30, 2.750)],
)
def test_student_quantiles_equal_the_table(probability, freedom, value):
    assert student_quantile(probability, freedom) == pytest.approx(value, rel=2e-3)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_too_few_samples_are_refused(values):
    with pytest.raises(StropError, match="at least 2 samples"):
        bootstrap(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(StropError, match="finite"):
        bootstrap([1.0, bad, 2.0])


def test_an_impossible_level_is_refused():
    with pytest.raises(StropError, match="level"):
        bootstrap([1.0, 2.0], level=95)


def paired_samples(effect):
    """Two noisy series that share what makes a sample hard; ours is lower by `effect`."""
    rng = np.random.default_rng(3)
    hardness = rng.normal(3.0, 1.0, 60)
    return hardness - effect + rng.normal(0, 0.02, 60), hardness + rng.normal(0, 0.02, 60)


def test_pairing_finds_a_small_effect():
    ours, baseline = paired_samples(effect=0.05)
    difference = paired_difference(ours, baseline)
    assert verdict(difference, lower_is_better=True) == "better"
    assert difference.estimate == pytest.approx(-0.05, abs=0.01)
    assert verdict(paired_difference(baseline, ours), lower_is_better=True) == "worse"


def test_negative_control_shuffled_pairs_find_nothing():
    ours, baseline = paired_samples(effect=0.05)
    shuffled = np.random.default_rng(0).permutation(baseline)
    difference = paired_difference(ours, shuffled)
    assert verdict(difference, lower_is_better=True) == "cannot tell"
    paired = paired_difference(ours, baseline)
    assert difference.high - difference.low > 10 * (paired.high - paired.low)


def test_no_effect_is_found_in_about_one_of_twenty_sets():
    rng = np.random.default_rng(8)
    found = 0
    for seed in range(400):
        hardness = rng.normal(size=30)
        a, b = hardness + rng.normal(size=30), hardness + rng.normal(size=30)
        found += paired_difference(a, b, resamples=500, seed=seed).excludes(0.0)
    assert 0.02 <= found / 400 <= 0.09


@pytest.mark.parametrize("relative", [False, True])
def test_identical_inputs_have_zero_difference_and_no_width(relative):
    rows = np.random.default_rng(4).gamma(2.0, size=20)
    difference = paired_difference(rows, rows, relative=relative)
    assert (difference.low, difference.estimate, difference.high) == (0.0, 0.0, 0.0)


def test_relative_difference_of_perplexities():
    baseline = np.random.default_rng(6).normal(3.0, 0.5, 40)
    difference = paired_difference(
        baseline + math.log(1.03), baseline, lambda rows: np.exp(mean(rows)), relative=True
    )
    assert difference.estimate == pytest.approx(0.03, rel=1e-9)
    assert difference.high - difference.low < 1e-9


def test_pairs_must_match():
    with pytest.raises(StropError, match="differ in shape"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])
