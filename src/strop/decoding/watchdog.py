"""Drafters that may hang, in a thread that can be left behind."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from strop.decoding.drafters import Drafter, Guess
from strop.decoding.sampling import Sampling
from strop.models.interface import Session

PATIENCE = 30.0  #: seconds for a guess, besides what the drafter says that it takes

Call = tuple[Callable[..., Any], tuple[Any, ...]]
Answer = tuple[Any, BaseException | None]


class Watched:
    """A drafter whose every call is waited for only so long; then each of them is a TimeoutError.

    Handing a call over to its thread takes some 20 microseconds.
    """

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.name, self.seconds, self.priors = drafter.name, drafter.seconds, drafter.priors
        self.calls: SimpleQueue[Call | None] = SimpleQueue()
        self.answers: SimpleQueue[Answer] = SimpleQueue()
        self.left_behind = False
        threading.Thread(target=serve, args=(self.calls, self.answers), daemon=True).start()
        weakref.finalize(self, self.calls.put, None)

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text; a prompt may take as long as so many guesses."""
        longer = len(prompt) * self.seconds
        self.call(self.drafter.start, prompt, sampling, session, longer=longer)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the tokens that were chosen next."""
        self.call(self.drafter.extend, tokens)

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next tokens, each when it is asked for."""
        proposed = self.call(self.drafter.propose)
        try:
            while (guess := self.call(next, proposed, None)) is not None:
                yield guess
        finally:
            if not self.left_behind:
                self.call(proposed.close)

    def call(self, function: Callable[..., Any], *arguments: Any, longer: float = 0.0) -> Any:
        """Return what a function returns, or raise what it raises; TimeoutError if it hangs."""
        if self.left_behind:
            raise TimeoutError("it hung before")
        self.calls.put((function, arguments))
        self.left_behind = True  # unless an answer comes
        value, error = self.answer(PATIENCE + self.seconds + longer)
        self.left_behind = False
        if error is not None:
            raise error
        return value

    def answer(self, seconds: float) -> Answer:
        """Wait for an answer. Ctrl-C waits for it too, so that nothing goes on in the background.

        A second one does not wait any more.
        """
        try:
            return self.answers.get(timeout=seconds)
        except Empty:
            raise TimeoutError(f"no answer in {seconds:.3g} s") from None
        except KeyboardInterrupt:
            with suppress(Empty):
                self.answers.get(timeout=seconds)
                self.left_behind = False
            raise


def serve(calls: SimpleQueue[Call | None], answers: SimpleQueue[Answer]) -> None:
    """Make calls until there is None. What a call was about is not kept while waiting."""
    while (call := calls.get()) is not None:
        answers.put(outcome(*call))
        del call


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    """Make a call; what it raises is for whoever asked."""
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, error
