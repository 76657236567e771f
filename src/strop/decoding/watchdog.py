"""Calls that may hang, made in a thread that can be left behind."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

Call = tuple[Callable[..., Any], tuple[Any, ...]]
Answer = tuple[Any, BaseException | None]
Ways = tuple["SimpleQueue[Call | None]", "SimpleQueue[Answer]"]


class Watchdog:
    """Makes calls, one after another, and waits for each only so long.

    Handing a call over takes some 20 microseconds.
    """

    def __init__(self, seconds: float) -> None:
        """Start no thread yet; wait so many seconds for an answer."""
        self.seconds = seconds
        self.ways: Ways | None = None  #: to a thread and back

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function returns, or raise what it raises; TimeoutError if it hangs."""
        if self.ways is None:
            self.ways = started(self)
        calls, answers = self.ways
        self.ways = None  # if the wait ends without an answer, the thread is left behind
        calls.put((function, arguments))
        try:
            value, error = answers.get(timeout=self.seconds)
        except Empty:
            raise TimeoutError(f"no answer in {self.seconds:g} s") from None
        self.ways = calls, answers
        if error is not None:
            raise error
        return value


def started(owner: Watchdog) -> Ways:
    """Start a thread that ends when its owner is gone, and return the ways to it and back."""
    calls: SimpleQueue[Call | None] = SimpleQueue()
    answers: SimpleQueue[Answer] = SimpleQueue()
    threading.Thread(target=serve, args=(calls, answers), daemon=True).start()
    weakref.finalize(owner, calls.put, None)
    return calls, answers


def serve(calls: SimpleQueue[Call | None], answers: SimpleQueue[Answer]) -> None:
    """Make calls until there is None. What a call was about is not kept while waiting."""
    while (call := calls.get()) is not None:
        answers.put(answer(*call))
        del call


def answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    """Make a call; what it raises is for whoever asked."""
    try:
        return function(*arguments), None
    except BaseException as error:
        return None, error
