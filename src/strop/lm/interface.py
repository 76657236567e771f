"""What raters, judges and evaluations ask of a model, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from strop.data import Prompt
from strop.decoding import Sampling


@dataclass(frozen=True)
class Answer:
    """What a model wrote."""

    text: str
    finish_reason: str  #: "end", "stop", "length" or "context"; of an endpoint what it calls it
    prompt_tokens: int  #: of the prompt
    tokens: int  #: of the answer
    #: log-probabilities of the options as the first token; None of one that is several tokens, and
    #: where an endpoint does not say
    options: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Scores:
    """How likely a given answer is."""

    logps: tuple[float, ...]  #: log-probability of each token of the answer, in nats
    greedy: bool  #: whether each of them is the most likely one

    @property
    def total(self) -> float:
        """Return the log-probability of the answer."""
        return sum(self.logps)

    @property
    def loss(self) -> float:
        """Return the mean negative log-probability of a token."""
        return -self.total / len(self.logps)


FAILED = "failed"  #: what the status of a prompt begins with that has no answer


@dataclass(frozen=True)
class Failed:
    """Why there is no answer to one prompt; the others have theirs."""

    reason: str  #: in a few words

    @property
    def status(self) -> str:
        """Return how it is kept."""
        return f"{FAILED}: {self.reason}"


class LanguageModel(Protocol):
    """Something that answers prompts and scores answers.

    Both yield the number of a prompt with what came of it, as each is done and in any order, so
    that the caller can keep it. They raise StropError for what concerns all prompts.
    """

    name: str  #: as the user called it
    chat: bool  #: whether text is a user's message in the chat template

    @property
    def identity(self) -> str:
        """Return what tells it from other models: a hash, or its address."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sequence[Sampling], options: Sequence[str] = ()
    ) -> Iterator[tuple[int, Answer | Failed]]:
        """Answer prompts, each by its own sampling.

        Of the options, best of one token each, an answer has the log-probabilities as its first
        token.
        """

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, Scores | Failed]]:
        """Score answers to prompts; what pairs begin with in common is read once."""
