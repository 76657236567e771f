"""Ctrl-C and SIGTERM that wait for a good moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from strop.console import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether a signal came; when the block ends, it takes effect.

    A second one takes effect at once. Outside the main thread nothing is deferred, for Python
    handles signals there alone.
    """
    came: list[tuple[int, FrameType | None]] = []  # what is to take effect
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {int(number): signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            restore()
            deliver(number, frame)
        came.append((number, frame))
        say("stopping after this step; once more stops at once")

    def deliver(number: int, frame: FrameType | None) -> None:
        handler = before[number]
        if callable(handler):
            handler(number, frame)
        elif handler is signal.SIG_DFL:
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()
    if came:
        deliver(*came[0])
