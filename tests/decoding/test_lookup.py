"""The suffix automaton against a search through the whole text, and what lookup guesses."""

import random
from itertools import islice

import pytest

from strop.decoding import GREEDY, lookup
from strop.decoding.drafters import Guess
from strop.decoding.lookup import Lookup, SuffixAutomaton


def longest_end_before(tokens):
    """Try every length, from the longest, and every place, from the latest."""
    for length in range(len(tokens) - 1, 0, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[-length:]:
                return length, end
    return 0, None


@pytest.mark.parametrize("alphabet", [1, 2, 3, 5])
def test_the_longest_end_that_came_before_and_where_it_came_last(alphabet):
    chance = random.Random(alphabet)
    for _ in range(150):
        known, tokens = SuffixAutomaton(), []
        for _ in range(chance.randrange(1, 50)):
            tokens.append(chance.randrange(alphabet))
            known.append(tokens[-1])
            length, end = longest_end_before(tokens)
            assert known.match[0] == length
            assert length == 0 or known.match[1] == end, tokens


def test_states_are_at_most_two_a_token():
    chance = random.Random(0)
    known = SuffixAutomaton()
    for _ in range(2000):
        known.append(chance.randrange(4))
    assert len(known.next) <= 2 * 2000


def guesses(drafter, count=6):
    return [guess.token for guess in islice(drafter.propose(), count)]


def test_guesses_what_came_after_the_same_tokens():
    drafter = Lookup()
    drafter.start([1, 2, 3, 4, 5, 9, 2, 3], GREEDY, None)
    assert list(islice(drafter.propose(), 3)) == [Guess(4, 2), Guess(5, 3), Guess(9, 4)]
    drafter.extend([4])
    assert list(islice(drafter.propose(), 2)) == [Guess(5, 3), Guess(9, 4)]
    drafter.extend([7])
    assert guesses(drafter) == []


def test_a_text_that_repeats_itself_is_guessed_to_go_on_so():
    drafter = Lookup()
    drafter.start([8, 1, 2, 1, 2], GREEDY, None)
    assert guesses(drafter) == [1, 2, 1, 2, 1, 2]


def test_earlier_texts_and_expected_ones_are_guessed_from_up_to_their_ends():
    drafter = Lookup()
    drafter.expect([1, 2, 3])
    drafter.start([7, 1], GREEDY, None)
    assert guesses(drafter) == [2, 3]
    drafter.start([5, 7], GREEDY, None)
    assert guesses(drafter) == [1]


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(lookup, "MOST_TOKENS", 100)
    drafter = Lookup()
    for index in range(50):
        drafter.start([index] * 30, GREEDY, None)
        assert len(drafter.known.tokens) <= 101
    drafter.start(list(range(1000)), GREEDY, None)
    assert drafter.known.tokens[1:] == list(range(900, 1000))
