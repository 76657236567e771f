"""Texts that are kept for lookup: read back, bounded, and damage is told."""

import pytest

from strop.decoding import GREEDY, Memory
from strop.decoding.lookup import BETWEEN, Lookup
from strop.decoding.memory import KEPT
from strop.errors import StropError


@pytest.fixture
def memory(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("STROP_CACHE", str(tmp_path))
    return Memory(tokenizer)


def test_texts_are_read_back_and_guessed_from(memory):
    assert memory.read() == []
    memory.add([1, 2, 3])
    memory.add([7, 8, 9])
    assert memory.read() == [BETWEEN, 1, 2, 3, BETWEEN, 7, 8, 9]
    drafter = Lookup()
    drafter.expect(memory.read())
    drafter.start([5, 2], GREEDY, None)
    assert [guess.token for guess in drafter.propose()] == [3]


def test_no_more_than_so_many_tokens_are_kept(memory):
    memory.add([1] * KEPT)
    memory.add([2] * 10)
    assert len(memory.read()) == KEPT
    assert memory.read()[-10:] == [2] * 10


@pytest.mark.parametrize("content", [b"odd", bytes(4 * KEPT + 4)])
def test_damage(memory, content):
    memory.add([1])
    memory.path.write_bytes(content)
    with pytest.raises(StropError, match="not a list of tokens"):
        memory.read()
