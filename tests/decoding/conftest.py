"""A model without weights: logits are a hash of the tokens so far."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from strop.errors import StropError
from strop.models.interface import Logits
from strop.models.tokenizer import Tokenizer as StropTokenizer

BEGIN, END = 0, 1
TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


def byte_tokenizer(bos: bool, template: str | None) -> StropTokenizer:
    """256 bytes and two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<begin>": BEGIN, "<end>": END}
    vocabulary |= {token: index + 2 for index, token in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<begin>"), AddedToken("<end>")])
    return StropTokenizer(backend, {"bos_token": "<begin>"} if bos else {}, template, [END])


class FakeModel:
    """Deterministic logits, a record of every forward pass, and an optional script to follow."""

    backend = "fake"
    name = "fake"
    directory = Path("fake")
    fingerprint = "0"

    def __init__(
        self,
        context_length: int = 400,
        script: str | None = None,
        bos: bool = True,
        template: str | None = TEMPLATE,
    ) -> None:
        self.config: dict[str, Any] = {}
        self.context_length = context_length
        self.tokenizer = byte_tokenizer(bos, template)
        self.script = None if script is None else [*self.tokenizer.encode(script), END]
        self.prompt_length = 0  # where the script starts
        self.passes: list[int] = []  # tokens in each forward pass
        self.bad_position: int | None = None

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.size

    def session(self) -> FakeSession:
        return FakeSession(self)

    def forward(
        self,
        sessions: Sequence[FakeSession],
        tokens: Sequence[Sequence[int]],
        last: int | None = None,
    ) -> list[Logits]:
        return [one.forward(ids, last) for one, ids in zip(sessions, tokens, strict=True)]

    def logits(self, context: Sequence[int]) -> np.ndarray:
        """What the model says after `context`, a plain function."""
        seed = zlib.crc32(np.asarray(context, dtype=np.int64).tobytes())
        row = np.random.default_rng(seed).normal(0, 2, self.tokenizer.size).astype(np.float32)
        row[END] = -20
        if self.script is not None and len(context) >= self.prompt_length:
            row[self.script[(len(context) - self.prompt_length) % len(self.script)]] = 60
        if self.bad_position == len(context):
            row[7] = np.nan
        return row


class FakeSession:
    states = None

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.tokens: list[int] = []

    @property
    def length(self) -> int:
        return len(self.tokens)

    def forward(self, tokens: Sequence[int], last: int | None = None) -> Logits:
        if self.length + len(tokens) > self.model.context_length:
            raise StropError("too long")
        self.model.passes.append(len(tokens))
        rows = []
        for token in tokens:
            self.tokens.append(token)
            rows.append(self.model.logits(self.tokens))
        kept = rows if last is None else rows[max(0, len(rows) - last) :]
        return np.array(kept, np.float32).reshape(len(kept), self.model.tokenizer.size)

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length
        del self.tokens[length:]

    def fork(self) -> FakeSession:
        other = type(self)(self.model)
        other.tokens = list(self.tokens)
        return other


@pytest.fixture(scope="session")
def fake() -> type[FakeModel]:
    return FakeModel


@pytest.fixture(scope="session")
def tokenizer() -> StropTokenizer:
    return byte_tokenizer(bos=True, template=TEMPLATE)
