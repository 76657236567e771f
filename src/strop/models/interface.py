"""What a language model is to the rest of Strop: something that turns tokens into logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from strop.errors import StropError
from strop.models.tokenizer import Tokenizer

Logits = NDArray[np.float32]  #: one row per token, one column per vocabulary entry
States = NDArray[np.float32]  #: one row per token: what the head multiplies, after the last norm


class Session(Protocol):
    """One sequence and its key-value cache."""

    states: States | None  #: of the rows that the last `forward` returned; None if not known

    @property
    def length(self) -> int:
        """Return the number of tokens in the cache."""

    def forward(self, tokens: Sequence[int], last: int | None = None) -> Logits:
        """Append tokens and return their logits, float32 of shape (len(tokens), vocabulary).

        With `last`, only those of the last so many tokens, which costs less. Raises StropError
        when the context would grow beyond `Model.context_length`.
        """

    def truncate(self, length: int) -> None:
        """Roll back to the first `length` tokens."""

    def fork(self) -> Session:
        """Return another session with the same tokens, which goes its own way."""


class Model(Protocol):
    """Weights, a tokenizer and a way to open sequences."""

    backend: str  #: what computes: "native" or "torch"
    name: str  #: what the user called it
    directory: Path  #: the transformers or packed directory it was loaded from
    config: dict[str, Any]  #: the contents of config.json
    tokenizer: Tokenizer
    context_length: int  #: most tokens in one session

    @property
    def vocabulary(self) -> int:
        """Return the number of logits per token, which may be more than the tokenizer's size."""

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 over the weights; computed when first asked for."""

    def session(self) -> Session:
        """Open an empty sequence."""

    def forward(
        self,
        sessions: Sequence[Any],
        tokens: Sequence[Sequence[int]],
        last: int | None = None,
    ) -> list[Logits]:
        """Append tokens to several sessions of this model at once; no session may come twice.

        Returns for each what its own `Session.forward` would. Raises StropError as that does, and
        then no session has grown.
        """


def check_forward(
    model: Model, sessions: Sequence[Session], tokens: Sequence[Sequence[int]], last: int | None
) -> None:
    """Raise the errors of `Model.forward` before anything has changed."""
    if last is not None and last < 0:
        raise ValueError(f"last must not be negative: {last}")
    if len(set(map(id, sessions))) != len(sessions):
        raise ValueError("a session may come only once")
    for session, ids in zip(sessions, tokens, strict=True):
        array = np.asarray(ids)
        whole = array.ndim == 1 and (array.dtype.kind in "iu" or not array.size)
        if not whole or (array.size and not 0 <= array.min() <= array.max() < model.vocabulary):
            raise StropError(f"token ids must be whole numbers from 0 to {model.vocabulary - 1}")
        if (length := session.length + len(ids)) > model.context_length:
            raise StropError(
                f"{length} tokens do not fit into the context of {model.name} "
                f"({model.context_length})"
            )
