"""A session that remembers its tokens, so that the next prompt can start where it agrees."""

from __future__ import annotations

from collections.abc import Sequence

from strop.models.interface import Logits, Model, Session

PREFILL_CHUNK = 512  # tokens of a prompt at once: what bounds memory, and the wait for Ctrl-C


class CachedSession:
    """A session together with the tokens in its key-value cache."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.tokens: list[int] = []

    def forward(self, tokens: Sequence[int], last: int | None = None) -> Logits:
        """Append tokens and return the logits of the last of them, see `Session.forward`."""
        logits = self.session.forward(tokens, last)
        self.tokens.extend(tokens)
        return logits

    def truncate(self, length: int) -> None:
        """Roll back to the first `length` tokens."""
        self.session.truncate(length)
        del self.tokens[length:]

    def fork(self) -> CachedSession:
        """Return another with the same tokens."""
        other = CachedSession(self.session.fork())
        other.tokens = list(self.tokens)
        return other

    def holds(self, prompt: Sequence[int]) -> bool:
        """Tell whether a prompt (at least one token) is what the cache begins with."""
        end = len(prompt)
        # Prompts have their beginnings in common: most differ in their last token's place.
        last = end <= len(self.tokens) and self.tokens[end - 1] == prompt[-1]
        return last and self.tokens[:end] == list(prompt)

    def keep(self, prompt: Sequence[int]) -> int:
        """Keep the tokens that agree with a prompt before its last; return their number."""
        reused = common_prefix(self.tokens, prompt[:-1])
        self.truncate(reused)  # even if it is all of it: a pass broken off may have left more
        return reused

    def prefill(self, prompt: Sequence[int]) -> tuple[Logits, int]:
        """Make `prompt` (at least one token) the content of the cache.

        Only what follows the longest common prefix is computed, the last token always. Returns
        the logits of the last token, shape (1, vocabulary), and how many tokens were reused.
        """
        reused = self.keep(prompt)
        for start in range(reused, len(prompt), PREFILL_CHUNK):
            logits = self.forward(prompt[start : start + PREFILL_CHUNK], last=1)
        return logits[-1:], reused


def forward_together(
    model: Model,
    caches: Sequence[CachedSession],
    tokens: Sequence[Sequence[int]],
    last: Sequence[int],
) -> list[Logits]:
    """Append tokens to several sessions in one pass; return the logits of the last of each.

    `last` is how many of them for each session, at least one.
    """
    logits = model.forward([cache.session for cache in caches], tokens, max(last))
    for cache, ids, count in zip(caches, tokens, last, strict=True):
        cache.tokens.extend(ids)
        if cache.session.states is not None:
            cache.session.states = cache.session.states[-count:]
    return [rows[-count:] for rows, count in zip(logits, last, strict=True)]


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the number of tokens in which two sequences agree from the start."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))
