"""The suffix automaton against a search through the whole text, and what lookup guesses."""

import random
from itertools import islice

import pytest

from strop._native import SuffixAutomaton
from strop.decoding import GREEDY, lookup
from strop.decoding.drafters import Guess
from strop.decoding.lookup import Lookup


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
            known.extend([tokens[-1]])
            length, end = longest_end_before(tokens)
            assert known.match[0] == length
            assert length == 0 or known.match[1] == end, tokens


def test_tokens_may_come_one_by_one_or_together():
    chance = random.Random(0)
    tokens = [chance.randrange(4) for _ in range(3000)]
    whole, pieces = SuffixAutomaton(), SuffixAutomaton()
    whole.extend(tokens)
    for start in range(0, len(tokens), 7):
        pieces.extend(tokens[start : start + 7])
    assert whole.match == pieces.match


@pytest.mark.parametrize("alphabet", [1, 4, 2000])
def test_memory_grows_with_the_text_and_no_faster(alphabet):
    chance = random.Random(0)
    known, sizes = SuffixAutomaton(), []
    for _ in range(4):
        known.extend([chance.randrange(alphabet) for _ in range(8192)])
        sizes.append(known.nbytes)
    assert sizes[-1] < 4 * 8192 * 160
    assert sizes[-1] <= 4 * sizes[0] * 1.1


def test_what_is_no_token_is_refused_and_nothing_added():
    drafter = Lookup()
    drafter.start([1, 2, 3, 1, 2], GREEDY, None)
    for wrong in (2**31, 1.5, "3"):
        with pytest.raises(TypeError):
            drafter.extend([3, wrong])
    assert guesses(drafter, 1) == [3]


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
        assert len(drafter.tokens) <= 101
    drafter.start(list(range(1000)), GREEDY, None)
    assert drafter.tokens[1:] == list(range(900, 1000))
