"""Turn tokens into text as they arrive: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a decoder gives for bytes that are not (yet) a character


class Detokenizer:
    """Decode a growing sequence of tokens piece by piece.

    Text is given out once it ends with a whole character, so the pieces never hold half of one,
    and with the rest from `flush` they join to the decoded whole. (A byte-fallback vocabulary
    that mixes characters with invalid bytes in one run can differ there.) Only the last few
    tokens are decoded again: one piece back, because some decoders treat the first token of a
    text in their own way.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self.decode = decode
        self.context: list[int] = []  # the tokens of the piece given out last
        self.pending: list[int] = []  # the tokens since then

    def push(self, token: int) -> str:
        """Take one token and return the text that it completes, often empty."""
        self.pending.append(token)
        text = self.unseen()
        if not text or text.endswith(UNFINISHED):
            return ""
        self.context, self.pending = self.pending, []
        return text

    def flush(self) -> str:
        """Return what is still held back when no more tokens come, unfinished bytes included."""
        text = self.unseen() if self.pending else ""
        self.context, self.pending = self.context + self.pending, []
        return text

    def unseen(self) -> str:
        """Return the text of the pending tokens."""
        return self.decode(self.context + self.pending)[len(self.decode(self.context)) :]


class StopStrings:
    """Pass text through until one of the stop strings is complete, and nothing from there on.

    The result does not depend on how the text is cut into pieces: the stop string that ends
    first wins, of two that end together the longer one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.held = ""  # an end of the text so far that may be the start of a stop string
        self.found: str | None = None  #: the stop string that was met

    def push(self, piece: str) -> str:
        """Take a piece of text and return what is safe to show."""
        text = self.held + piece
        matches = [(text.find(stop), stop) for stop in self.stops if stop in text]
        if matches:
            start, self.found = min(matches, key=lambda m: (m[0] + len(m[1]), m[0]))
            self.held = ""
            return text[:start]
        safe = len(text) - max((overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """Return the held-back text when no more comes."""
        text, self.held = self.held, ""
        return text


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` with which `stop` begins."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
