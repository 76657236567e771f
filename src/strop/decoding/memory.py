"""Texts of earlier runs, kept on disk for lookup: what was written once is often written again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strop.data import atomic_path, sha256_json
from strop.decoding.lookup import BETWEEN, MOST_TOKENS
from strop.errors import StropError
from strop.models.cache import cache_directory
from strop.models.tokenizer import Tokenizer

KEPT = MOST_TOKENS // 2  #: tokens, the last ones: room is left for the texts to come


class Memory:
    """The last texts, of all models with the same tokens; 4 bytes a token, 128 kB at most."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = sorted(tokenizer.backend.get_vocab().items())
        self.path = cache_directory() / "texts" / f"{sha256_json(vocabulary)}.npy"

    def read(self) -> list[int]:
        """Return the tokens of all texts, with `BETWEEN` before each. StropError if damaged."""
        if not self.path.is_file():
            return []
        try:
            tokens = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StropError(f"{self.path}: not a list of tokens: remove it") from error
        if tokens.dtype != np.int32 or tokens.ndim != 1:
            raise StropError(f"{self.path}: not a list of tokens: remove it")
        found: list[int] = tokens.tolist()
        return found

    def add(self, tokens: Sequence[int]) -> None:
        """Keep one more text, and forget the oldest tokens beyond `KEPT`."""
        kept = [*self.read(), BETWEEN, *tokens][-KEPT:]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as partial, partial.open("wb") as stream:
            np.save(stream, np.array(kept, np.int32))
