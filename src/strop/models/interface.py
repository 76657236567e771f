"""What a language model is to the rest of Strop: something that turns tokens into logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from strop.models.tokenizer import Tokenizer

Logits = NDArray[np.float32]  #: one row per token, one column per vocabulary entry


class Session(Protocol):
    """One sequence and its key-value cache."""

    @property
    def length(self) -> int:
        """Return the number of tokens in the cache."""

    def forward(self, tokens: Sequence[int]) -> Logits:
        """Append tokens and return their logits, float32 of shape (len(tokens), vocabulary).

        Raises StropError when the context would grow beyond `Model.context_length`.
        """

    def truncate(self, length: int) -> None:
        """Roll back to the first `length` tokens."""


class Model(Protocol):
    """Weights, a tokenizer and a way to open sequences."""

    name: str  #: what the user called it
    directory: Path  #: the transformers or packed directory it was loaded from
    config: dict[str, Any]  #: the contents of config.json
    tokenizer: Tokenizer
    context_length: int  #: most tokens in one session

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 over the weights; computed when first asked for."""

    def session(self) -> Session:
        """Open an empty sequence."""
