"""Weights that move in one run."""

from __future__ import annotations

import numpy as np
import pytest

from strop.mixing.online import EVEN, Online


def noted(online: Online, windows: list[int], losses: list[float]) -> list[int]:
    """Note losses by domain as a step does; return the domains of its windows."""
    domains = (np.searchsorted(online.starts, windows, side="right") - 1).tolist()
    for domain in domains:
        online.total[domain] += losses[domain]
        online.seen[domain] += 1
    return domains


def test_weights_move_by_hand_and_only_when_every_domain_was_seen() -> None:
    online = Online([5, 5, 5], batch=2, rate=1.0, seed=0)
    noted(online, online.next_batch(0), [3.0, 1.0, 2.0])
    assert online.seen.tolist() == [1, 1, 0]
    noted(online, online.next_batch(1), [3.0, 1.0, 2.0])  # the third is awaited
    assert not online.logits.any()
    assert online.seen.all()
    online.next_batch(2)
    grown = np.exp([1.0, -1.0, 0.0])
    expected = (1 - EVEN) * grown / grown.sum() + EVEN / 3
    np.testing.assert_allclose(online.weights, expected)
    assert not online.seen.any()  # no loss counts twice


def test_the_worst_domain_gets_more_until_it_is_not_the_worst() -> None:
    """A domain's loss falls with what was read of it, that of the second from higher up."""
    online = Online([50, 50, 50], batch=6, rate=2.0, seed=0)
    for step in range(400):
        losses = np.array([1.0, 2.0, 1.0]) * (1 + online.read) ** -0.3
        noted(online, online.next_batch(step), losses.tolist())
    shares = online.read / online.read.sum()
    assert shares[1] > 2 * shares[0]
    assert np.ptp(losses) < 0.1
    assert abs(shares[0] - shares[2]) < 0.05


def test_a_run_goes_on_as_it_would_have() -> None:
    losses = [3.0, 1.0, 2.0, 2.5]

    def fresh() -> Online:
        online = Online([7, 3, 9, 4], batch=3, rate=0.1, seed=5)
        online.order(60)
        return online

    whole, parts = fresh(), fresh()
    wanted = []
    for step in range(60):
        wanted.append(whole.next_batch(step))
        noted(whole, wanted[-1], losses)
    for step in range(60):
        if step in (1, 20, 41):
            kept = parts.state_dict()
            parts = fresh()
            parts.load_state_dict(kept)
        found = parts.next_batch(step)
        assert found == wanted[step]
        noted(parts, found, losses)
    assert whole.weights.tolist() == parts.weights.tolist()
    domains = np.searchsorted(whole.starts, wanted[30:], side="right") - 1  # of the second half
    assert whole.shares.tolist() == (np.bincount(domains.ravel(), minlength=4) / 90).tolist()
    assert parts.shares.tolist() == whole.shares.tolist()


def test_a_domain_is_read_whole_before_it_is_read_again() -> None:
    online = Online([4, 4], batch=8, rate=0.0, seed=0)
    first, second = online.next_batch(0), online.next_batch(1)
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second
    assert online.read.tolist() == [8, 8]


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_losses_move_nothing(seed: int) -> None:
    online = Online([9, 9], batch=2, rate=5.0, seed=seed)
    for step in range(5):
        noted(online, online.next_batch(step), [1.5, 1.5])
    np.testing.assert_allclose(online.weights, 0.5)
