"""Drafts copied from the text itself: what followed the last time that the same tokens came."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import count

from strop.decoding.drafters import Guess
from strop.decoding.sampling import Sampling
from strop.models.interface import Session

MOST_LINKS = (
    64  # of a chain that are brought up to date; a text of one token repeated has long ones
)


class SuffixAutomaton:
    """Finds the longest end of a growing text that occurred in it before.

    One state stands for all substrings with the same ends; `link` leads to the longest suffix of
    them with other ends too. Appending takes constant time on average, and memory for at most two
    states a token. Source: Blumer et al. 1985, "The smallest automaton recognizing the subwords of
    a text"; here each state also knows where it last ended.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.next: list[dict[int, int]] = [{}]
        self.link = [-1]
        self.length = [0]  # of the longest substring of a state
        self.end = [0]  # where it last ended
        self.last = 0  # the state of the whole text
        self.match = (0, 0)  #: length of the longest end that came before; where that ended

    def append(self, token: int) -> None:
        """Add a token."""
        self.tokens.append(token)
        new = self.state({}, len(self.tokens), len(self.tokens))
        at = self.last
        while at >= 0 and token not in self.next[at]:
            self.next[at][token] = new
            at = self.link[at]
        self.link[new] = self.suffix(at, token) if at >= 0 else 0
        self.last = new
        found = self.link[new]
        self.match = (self.length[found], self.end[found])
        for _ in range(MOST_LINKS):
            if found <= 0:
                break
            self.end[found] = len(self.tokens)
            found = self.link[found]

    def suffix(self, at: int, token: int) -> int:
        """Return the state of the longest substring of `at`, followed by `token`."""
        found = self.next[at][token]
        if self.length[found] == self.length[at] + 1:
            return found
        # The state holds longer ones too, which have not come now: they are split off.
        part = self.state(dict(self.next[found]), self.length[at] + 1, self.end[found])
        self.link[part] = self.link[found]
        self.link[found] = part
        while at >= 0 and self.next[at].get(token) == found:
            self.next[at][token] = part
            at = self.link[at]
        return part

    def state(self, following: dict[int, int], length: int, end: int) -> int:
        """Add a state and return its number."""
        self.next.append(following)
        self.link.append(0)
        self.length.append(length)
        self.end.append(end)
        return len(self.next) - 1


MOST_TOKENS = (
    65_536  #: that are remembered, in some 40 MB; then all but the present text is forgotten
)
BETWEEN = -1  # stands between two texts

#: How often a guess after so many agreeing tokens is right, before any was seen.
PRIORS = (
    0.0,
    0.15,
    0.3,
    0.45,
    0.55,
    0.6,
    0.65,
    0.7,
    0.75,
    0.8,
    0.8,
    0.85,
    0.85,
    0.9,
    0.9,
    0.9,
    0.9,
)


class Lookup:
    """Guesses that the text goes on as it did after the same tokens before.

    Before means in this text, in those that this object was given earlier, or in what the caller
    expects. The kind of a guess is the number of tokens before it that agree, guesses included.
    """

    bounded = True
    name = "lookup"
    seconds = 0.0
    priors = PRIORS

    def __init__(self) -> None:
        self.known = SuffixAutomaton()

    def expect(self, tokens: Sequence[int]) -> None:
        """Take a text that later ones may repeat."""
        if len(self.known.tokens) + len(tokens) > MOST_TOKENS:
            self.known = SuffixAutomaton()
        self.extend([BETWEEN, *tokens[-MOST_TOKENS:]])

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""
        self.expect(prompt)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens."""
        for token in tokens:
            self.known.append(token)

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next tokens."""
        length, end = self.known.match
        tokens = self.known.tokens
        period = len(tokens) - end  # what is repeated up to the end goes on to be repeated
        for index in count() if length else ():
            token = tokens[end + index % period]
            if token == BETWEEN:
                return
            yield Guess(token, min(length + index, len(PRIORS) - 1))
