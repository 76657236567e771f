"""Check on given prompts that guesses change nothing: every token, with them and without."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, zip_longest

from strop.decoding.costs import MOST_ROWS, PassCosts
from strop.decoding.drafters import Drafter, Guess, check
from strop.decoding.generate import complete
from strop.decoding.planner import NOTHING, Draft, Planner
from strop.decoding.sampling import Sampling
from strop.models.interface import Model, Session


class Noise:
    """Guesses any tokens, nearly always wrong ones."""

    name = "noise"
    seconds = 0.0
    priors = (0.9,)

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.chance = random.Random(0)

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens."""

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next tokens."""
        while True:
            yield Guess(self.chance.randrange(self.vocabulary), 0)


class Reckless(Planner):
    """Checks any number of guesses of any drafter, whether that pays or not."""

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        super().__init__(PassCosts([1.0] * MOST_ROWS), drafters)
        self.chance = random.Random(0)

    def draft(self, limit: int, together: int = 1) -> Draft:
        """Return some guesses, or none."""
        if not self.drafters:
            return NOTHING
        drafter = self.chance.choice(self.drafters)
        count = self.chance.randrange(min(limit, MOST_ROWS - 1) + 1)
        guesses = self.safely(drafter, self.some, drafter, count)
        return Draft(tuple(guesses), drafter.name) if guesses else NOTHING

    def some(self, drafter: Drafter, count: int) -> list[Guess]:
        """Return so many guesses, or fewer if there are."""
        with closing(drafter.propose()) as proposed:
            guesses = list(islice(proposed, count))
        for guess in guesses:
            check(guess, drafter, self.rejecting)
        return guesses


@dataclass(frozen=True)
class Comparison:
    """One prompt, continued plainly and with guesses."""

    prompt: int  #: number of the prompt
    temperature: float
    tokens: int  #: that plain generation gave
    guessed: int  #: guesses that were checked
    accepted: int  #: of these, right ones
    first_difference: int | None  #: index of the first token that differs; None if none does


def compare(
    model: Model,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    planner: Callable[[], Planner],
) -> Iterator[Comparison]:
    """Continue each prompt by each sampling without guesses and with those of a new planner."""
    for number, prompt in enumerate(prompts):
        for sampling in samplings:
            plain = complete(model, prompt, sampling)
            other = complete(model, prompt, sampling, planner=planner())
            pairs = zip_longest(plain.tokens, other.tokens)
            differences = (index for index, (one, two) in enumerate(pairs) if one != two)
            cost = other.statistics
            yield Comparison(
                prompt=number,
                temperature=sampling.temperature,
                tokens=len(plain.tokens),
                guessed=sum(cost.guessed.values()),
                accepted=sum(cost.accepted.values()),
                first_difference=next(differences, None),
            )
