"""Texts of earlier runs, kept on disk for lookup: what was written once is often written again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strop.data import atomic_path, sha256_json
from strop.decoding.lookup import BETWEEN, MOST_TOKENS
from strop.errors import StropError
from strop.models.cache import cache_directory, only_one
from strop.models.tokenizer import Tokenizer

KEPT = MOST_TOKENS // 2  #: tokens, the last ones: room is left for the texts to come
TYPE = np.dtype("<i4")  # of the numbers in the file


class Memory:
    """The last texts, of all models with the same tokens; 4 bytes a token, 128 kB at most."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = sorted(tokenizer.backend.get_vocab().items())
        self.path = cache_directory() / "texts" / f"{sha256_json(vocabulary)}.i32"

    def read(self) -> list[int]:
        """Return the tokens of all texts, with `BETWEEN` before each. StropError if damaged.

        Other numbers than were written do no harm: they are guessed, and found wrong.
        """
        try:
            content = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StropError(f"cannot read {self.path}: {error.strerror}") from error
        if len(content) % TYPE.itemsize or len(content) > KEPT * TYPE.itemsize:
            raise StropError(f"{self.path}: not a list of tokens: remove it")
        found: list[int] = np.frombuffer(content, TYPE).tolist()
        return found

    def add(self, tokens: Sequence[int]) -> None:
        """Keep one more text, and forget the oldest tokens beyond `KEPT`."""
        with only_one(self.path):
            kept = [*self.read(), BETWEEN, *tokens][-KEPT:]
            with atomic_path(self.path) as partial:
                partial.write_bytes(np.array(kept, TYPE).tobytes())
