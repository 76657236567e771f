"""Windows of running text: their order, and what is learned from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strop.errors import StropError
from strop.training.network import NetworkConfig, open_trainee
from strop.training.windows import (
    ATTENTION,
    Window,
    Windows,
    domain_losses,
    language_modelling,
    mixed,
    window_losses,
)

WEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=20).filter(lambda one: sum(one) > 0.01)


@given(WEIGHTS, st.integers(1, 40), st.integers(1, 24), st.integers(0, 3))
def test_each_domain_has_its_share_to_one_window(
    weights: list[float], steps: int, batch: int, seed: int
) -> None:
    sizes = np.arange(3, 3 + len(weights))
    shares = np.array(weights) / sum(weights)
    found = mixed(shares, sizes, steps, batch, seed)
    assert found.shape == (steps, batch)
    domains = np.searchsorted(np.cumsum(sizes), found, side="right")
    counts = np.bincount(domains.ravel(), minlength=len(sizes))
    assert (np.abs(counts - shares * steps * batch) < 1).all()
    # Evenly: after any number of steps each domain is within two windows of its share.
    for step in range(1, steps + 1):
        so_far = np.bincount(domains[:step].ravel(), minlength=len(sizes))
        assert (np.abs(so_far - counts * step / steps) < 2 + len(sizes) / 2).all()


def test_equal_weights_bring_as_many_of_each_into_every_batch() -> None:
    found = mixed(np.ones(4), [9, 5, 2, 7], 50, 8, seed=0)
    domains = np.searchsorted([9, 14, 16, 23], found, side="right")
    assert all((np.bincount(row, minlength=4) == 2).all() for row in domains)


def test_a_domain_is_read_whole_before_it_is_read_again_and_then_in_another_order() -> None:
    found = mixed([1.0], [10], 6, 5, seed=1).ravel()
    for epoch in range(3):
        assert sorted(found[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert list(found[:10]) != list(found[10:20])
    assert np.array_equal(found, mixed([1.0], [10], 6, 5, seed=1).ravel())
    assert not np.array_equal(found, mixed([1.0], [10], 6, 5, seed=2).ravel())


def test_a_domain_without_weight_is_not_read() -> None:
    assert mixed([1.0, 0.0], [5, 5], 10, 4, seed=0).max() < 5


def test_windows_overlap_by_the_token_that_is_only_read() -> None:
    windows = Windows([np.arange(11), np.arange(100, 107)], 5)
    assert len(windows) == 3
    assert [one.tokens.tolist() for one in windows] == [
        [0, 1, 2, 3, 4, 5],
        [5, 6, 7, 8, 9, 10],
        [100, 101, 102, 103, 104, 105],
    ]
    assert [(one.domain, one.place) for one in windows[:]] == [(0, 0), (0, 1), (1, 0)]
    assert windows[2].group.size == 6
    with pytest.raises(StropError, match="domain 2: has a part of 5 tokens, less than a window"):
        Windows([np.arange(11), np.arange(5)], 5)


@pytest.fixture
def network(tiny_model: Path) -> torch.nn.Module:
    found = open_trainee(str(tiny_model), NetworkConfig(rank=0)).network
    found.set_attn_implementation(ATTENTION)
    return found


def some_windows(*domains: int) -> list[Window]:
    random = np.random.default_rng(0)
    return [Window(one, place, random.integers(3, 250, 9)) for place, one in enumerate(domains)]


def test_losses_are_those_of_the_network_s_own_logits(network: torch.nn.Module) -> None:
    windows = some_windows(0, 1, 0)
    found = window_losses(network, windows)
    for one, losses in zip(windows, found, strict=True):
        ids = torch.from_numpy(one.tokens)[None]
        logits = network(input_ids=ids[:, :-1]).logits[0]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)


def test_the_loss_of_a_domain_is_its_mean_whatever_the_batch(network: torch.nn.Module) -> None:
    windows = some_windows(0, 1, 0, 0, 1)
    together = domain_losses(network, windows, 3)
    assert [len(one) for one in together] == [3, 2, 0]
    for number in (0, 1):
        own = [one for one in windows if one.domain == number]
        alone = domain_losses(network, own, 2, room=1)[number]
        np.testing.assert_allclose(together[number], alone, rtol=1e-5)
    total, rows = language_modelling(["a", "b"]).loss(network, windows, None)
    assert [list(row) for row in rows] == [["a"], ["b"], ["a"], ["a"], ["b"]]
    assert float(total.detach()) == pytest.approx(sum(sum(row.values()) for row in rows), rel=1e-5)
