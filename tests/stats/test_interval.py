import pytest

from strop.stats import Interval, spelled_difference, spelled_figure, verdict


def test_prints_compactly_and_formats_each_number():
    interval = Interval(0.3125, 0.125, 0.5, n=32)
    assert str(interval) == "0.3125 [0.125, 0.5]"
    assert f"{interval:+.2f}" == "+0.31 [+0.12, +0.50]"


def test_to_json_holds_every_field():
    interval = Interval(1.0, 0.5, 2.0, n=8, level=0.9)
    assert interval.to_json() == {"estimate": 1.0, "low": 0.5, "high": 2.0, "n": 8, "level": 0.9}


def test_scaled_keeps_n_and_level():
    assert Interval(1.0, 0.5, 2.0, 8, 0.9).scaled(100.0) == Interval(100.0, 50.0, 200.0, 8, 0.9)


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "word"),
    [
        (-2.0, -1.0, True, "better"),
        (-2.0, -1.0, False, "worse"),
        (1.0, 2.0, True, "worse"),
        (1.0, 2.0, False, "better"),
        (-1.0, 1.0, True, "cannot tell"),
        (0.0, 1.0, True, "cannot tell"),  # zero on the edge is still inside
        (0.0, 0.0, False, "cannot tell"),
    ],
)
def test_verdict_follows_from_the_interval(low, high, lower_is_better, word):
    assert verdict(Interval((low + high) / 2, low, high, 10), lower_is_better) == word


def test_a_verdict_needs_a_p_value_that_is_corrected() -> None:
    found = Interval(-0.2, -0.3, -0.1, 40)
    assert verdict(found, lower_is_better=True, p=0.049) == "better"
    assert verdict(found, lower_is_better=True, p=0.05) == "cannot tell"
    assert verdict(Interval(-0.2, -0.5, 0.1, 40), True, p=0.001) == "cannot tell"


def test_shares_are_shown_in_per_cent_and_losses_as_they_are() -> None:
    found = Interval(-0.125, -0.25, 0.5, 40)
    assert spelled_figure(0.125, loss=False) == "12.5%"
    assert spelled_figure(found, loss=False) == "-12.5 [-25.0, 50.0]%"
    assert spelled_difference(found, loss=False) == "-12.5 [-25.0, +50.0] points"
    assert spelled_figure(0.125, loss=True) == "0.1250"
    assert spelled_difference(found, loss=True) == "-0.1250 [-0.2500, +0.5000]"
