"""Decide what to guess and how far, if at all: what gives the most tokens per second.

A pass over the last token and k guesses takes `seconds[k]`, as measured on this machine (see
costs.py), besides what the guesses take. It gives 1 + a1 + a1 a2 + ... + a1...ak tokens, where aj
is how often guesses of the kind of the j-th were right when all before them were. Guessing pays
where the quotient is better than that of a pass without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

from strop.console import say
from strop.decoding.costs import PassCosts, expected, shared
from strop.decoding.drafters import Drafter, Guess, check
from strop.decoding.sampling import Sampling
from strop.decoding.watchdog import Watched
from strop.models.interface import Session

GAIN = 1.03  #: how much better than none guesses have to look: to be wrong costs more than it gives
LEAST_REACH = 0.02  # chance that a guess is reached below which those after it do not matter
PRIOR_WEIGHT = 4.0  # guesses that a prior counts for
#: The same for the average of a drafter: with less, a few wrong guesses in the beginning end it.
AVERAGE_WEIGHT = 16.0
MEMORY = 64  # guesses of a kind that are remembered: older ones fade
PROBING = 0.005  # of the time goes to asking costly drafters that do not seem to pay
RENEWED = 32  #: tokens after which the costs of passes are computed anew


T = TypeVar("T")


class Rate:
    """How often guesses of a kind are right."""

    def __init__(self, prior: float, weight: float = PRIOR_WEIGHT) -> None:
        self.right = prior * weight
        self.all = weight

    def add(self, right: bool) -> None:
        """Count a guess."""
        if self.all > MEMORY:
            self.right *= 1 - 1 / MEMORY
            self.all *= 1 - 1 / MEMORY
        self.right += right
        self.all += 1

    @property
    def mean(self) -> float:
        """Return the share."""
        return self.right / self.all


@dataclass(frozen=True)
class Draft:
    """Guesses for the next tokens, to be checked in one pass."""

    guesses: tuple[Guess, ...] = ()
    drafter: str | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """Return the tokens that were guessed."""
        return tuple(guess.token for guess in self.guesses)


NOTHING = Draft()


class Planner:
    """Chooses drafts for one model, and learns from what became of them."""

    def __init__(self, costs: PassCosts, drafters: Sequence[Drafter]) -> None:
        self.costs = costs
        self.length = 0  # of the text
        self.renewed = 0  # length at which costs are computed anew
        self.together = 0  # texts for which they were
        self.drafters = [
            drafter if getattr(drafter, "bounded", False) else Watched(drafter)
            for drafter in drafters
        ]
        self.rates = {drafter.name: [Rate(p) for p in drafter.priors] for drafter in drafters}
        self.overall = {
            drafter.name: Rate(median(drafter.priors), AVERAGE_WEIGHT) for drafter in drafters
        }
        self.idle = Counter[str]()  # drafts since a costly drafter was asked
        #: seconds of the last draft of a costly drafter in this text: more than a guess takes, if
        #: it had to read what was written since the one before
        self.took: dict[str, float] = {}
        self.failed = False  #: whether a drafter was left behind
        self.asked = Counter[str]()  # guesses of known outcome
        self.hits = Counter[str]()  # those of them that were right
        self.first: dict[str, Guess] = {}  # what each drafter guesses for the next token
        self.rejecting = False

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""
        self.first, self.took = {}, {}
        self.length, self.renewed = len(prompt), 0
        self.rejecting = sampling.rule == "rejection"
        for drafter in list(self.drafters):
            self.safely(drafter, drafter.start, prompt, sampling, session)

    def draft(self, limit: int, together: int = 1) -> Draft:
        """Return the guesses that are worth checking, at most `limit`.

        `together` is the number of texts that a pass continues.
        """
        if self.length >= self.renewed or together != self.together:
            self.together, self.renewed = together, self.length + RENEWED
            self.now = shared(self.costs.after(self.length), together)
        seconds, delay = self.now
        limit = min(limit, len(seconds) - 1)
        best, best_speed = NOTHING, GAIN / seconds[0]
        self.first = {}
        for drafter in list(self.drafters):
            found = self.safely(drafter, self.explore, drafter, limit, seconds, best_speed, delay)
            if found is None:
                continue
            guesses, length, speed = found
            if guesses:
                self.first[drafter.name] = guesses[0]
            if speed > best_speed:
                best, best_speed = Draft(tuple(guesses[:length]), drafter.name), speed
                if self.rejecting:
                    break
        return best

    def explore(
        self, drafter: Drafter, limit: int, seconds: Sequence[float], least: float, delay: float
    ) -> tuple[list[Guess], int, float]:
        """Return guesses of one drafter, how many give the most tokens per second, and how many.

        A guess that takes time, or is drawn by chance for the rejection rule, is asked for only if
        an average one would help: one that was seen to be a bad one may not be left out by that
        rule, for that would make its tokens rarer than they should be.
        """
        name, cost = drafter.name, drafter.seconds * delay
        rates, average = self.rates[name], self.overall[name].mean
        guesses: list[Guess] = []
        reach = tokens = 1.0
        length, speed, now = 0, 0.0, least
        begin, asked = perf_counter(), False
        with closing(drafter.propose()) as proposed:
            while len(guesses) < limit and reach >= LEAST_REACH:
                count = len(guesses) + 1
                spent = seconds[count] + count * cost
                hopeless = (tokens + reach * average) / spent <= now
                if (
                    (cost or self.rejecting)
                    and hopeless
                    and (guesses or not self.probes(name, cost, seconds[0]))
                ):
                    break
                asked = True
                guess = next(proposed, None)
                if guess is None:
                    break
                check(guess, drafter, self.rejecting)
                guesses.append(guess)
                reach *= average if self.rejecting else rates[guess.kind].mean
                tokens += reach
                now = tokens / spent
                if now > speed or self.rejecting:
                    length, speed = count, now
        # By the rejection rule a text depends on what is guessed, so not on the clock as well.
        if asked and cost and not self.rejecting:
            self.took[name] = delay * (perf_counter() - begin)
        return guesses, length, speed

    def probes(self, name: str, guess: float, one: float) -> bool:
        """Tell whether a drafter that does not seem to pay is to be asked once again.

        `guess` and `one` are the seconds of a guess and of a pass over one token.
        """
        self.idle[name] += 1
        if self.idle[name] * PROBING * one < max(guess, self.took.get(name, 0.0)):
            return False
        self.idle[name] = 0
        return True

    def learn(self, draft: Draft, chosen: Sequence[int]) -> None:
        """Take the tokens that a pass gave: those of the draft that were right, and one more."""
        self.length += len(chosen)
        for name, guess in self.first.items():
            self.count(name, guess, chosen[0])
        if draft.drafter in self.rates:
            for guess, found in zip(draft.guesses[1:], chosen[1:], strict=False):
                self.count(draft.drafter, guess, found)
        for drafter in list(self.drafters):
            self.safely(drafter, drafter.extend, chosen)

    def count(self, name: str, guess: Guess, found: int) -> None:
        """Count a guess as right or wrong."""
        self.asked[name] += 1
        self.hits[name] += guess.token == found
        self.rates[name][guess.kind].add(guess.token == found)
        self.overall[name].add(guess.token == found)

    def why(self) -> list[str]:
        """Say what the choices rest on: what passes cost, and how good each drafter has been."""
        seconds = self.costs.after(self.length)
        shown = [rows for rows in (2, 4, 8, 16) if rows <= len(seconds)]
        costs = ", ".join(f"{seconds[rows - 1] / seconds[0]:.2f}" for rows in shown)
        lines = [f"a pass over {', '.join(map(str, shown))} tokens takes {costs} times one"]
        for drafter in self.drafters:
            if not self.asked[drafter.name]:
                lines.append(f"{drafter.name}: had nothing to guess, or was not worth asking")
                continue
            rate = self.overall[drafter.name].mean
            speed, length = expected([rate] * len(seconds), drafter.seconds, seconds)
            pays = f"{speed:.2f} times the speed, {length} at a time"
            lines.append(
                f"{drafter.name}: {self.hits[drafter.name]} of {self.asked[drafter.name]} guesses "
                f"right, {rate:.0%} of late, a guess takes "
                f"{drafter.seconds / seconds[0]:.2f} of a pass: "
                + (pays if speed >= GAIN else "does not pay")
            )
        return lines

    def safely(self, drafter: Drafter, call: Callable[..., T], *arguments: Any) -> T | None:
        """Call a drafter; go on without it if it fails."""
        try:
            return call(*arguments)
        except Exception as error:
            say(f"drafter {drafter.name} failed, going on without it: {error!r:.200}")
            self.failed = True
            self.drafters.remove(drafter)
            self.first.pop(drafter.name, None)
            return None
