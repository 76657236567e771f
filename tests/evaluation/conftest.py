"""A language model made of two tables, whose every number can be computed by hand."""

from pathlib import Path

import numpy as np
import pytest

VOCABULARY = 300  # bytes, and more: a vocabulary may be larger than its tokenizer


class ByteTokenizer:
    def __init__(self, shift=0, begin=()):
        self.shift, self.begin = shift, list(begin)

    def encode(self, text, special=True):
        ids = [(byte + self.shift) % 256 for byte in text.encode()]
        return [*self.begin, *ids] if special else ids


class TableModel:
    """Logits of the next token from the last two: first[last] + second[one before]."""

    def __init__(self, name="table", noise=0.0, tokenizer=None, context_length=4096):
        self.name, self.context_length = name, context_length
        self.directory, self.config, self.fingerprint = Path(), {}, f"{name}-{noise}"
        self.tokenizer = tokenizer or ByteTokenizer()
        rng = np.random.default_rng(0)
        self.tables = rng.normal(0.0, 2.0, (2, VOCABULARY, VOCABULARY)).astype(np.float32)
        noisy = np.random.default_rng(1).normal(0.0, 1.0, self.tables.shape)
        self.tables += (noise * noisy).astype(np.float32)

    backend, vocabulary = "table", VOCABULARY

    def session(self):
        return TableSession(self.tables)

    def forward(self, sessions, tokens, last=None):
        return [one.forward(ids, last) for one, ids in zip(sessions, tokens, strict=True)]


class TableSession:
    def __init__(self, tables):
        self.tables, self.tokens = tables, []

    @property
    def length(self):
        return len(self.tokens)

    def forward(self, tokens, last=None):
        before = [0, *self.tokens, *tokens][-len(tokens) - 1 : -1]
        self.tokens.extend(tokens)
        logits = self.tables[0][list(tokens)] + self.tables[1][before]
        return logits if last is None else logits[max(0, len(logits) - last) :]

    def truncate(self, length):
        del self.tokens[length:]


@pytest.fixture(scope="session")
def byte_tokenizer():
    return ByteTokenizer


@pytest.fixture(scope="session")
def table_model():
    return TableModel


@pytest.fixture
def text():
    """3,000 letters of no meaning."""
    return "".join(np.random.default_rng(2).choice(list("abcdefgh \n"), 3000))
