import inspect
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.errors import StropError
from strop.evaluation import default_text
from strop.evaluation.text import LETTERS, MIN_CHUNKS, cut


def test_default_text_is_documentation_of_the_standard_library():
    text = default_text()
    assert 500_000 < len(text) < 3_000_000
    assert inspect.getdoc(textwrap.dedent) in text
    assert "import sys" not in text[:10_000]


@given(
    length=st.integers(0, 2000),
    chunk=st.integers(2, 50),
    wanted=st.integers(MIN_CHUNKS, 60),
    begin=st.booleans(),
)
def test_chunks_are_whole_in_order_and_spread(byte_tokenizer, length, chunk, wanted, begin):
    prefix = [999] if begin else []
    text = "".join(chr(ord("a") + i % 23) for i in range(length))
    body = chunk - len(prefix)
    possible = body >= 2 and length // max(body, 1) >= MIN_CHUNKS
    if not possible:
        with pytest.raises(StropError):
            cut(byte_tokenizer(begin=prefix), text, wanted * chunk, chunk)
        return
    chunks = cut(byte_tokenizer(begin=prefix), text, wanted * chunk + chunk - 1, chunk)
    assert len(chunks) == min(wanted, length // body)
    assert all(len(piece) == chunk and piece[: len(prefix)] == prefix for piece in chunks)
    pieces = [bytes(text.encode()[i : i + body]) for i in range(0, length - body + 1, body)]
    found = [bytes(piece[len(prefix) :]) for piece in chunks]
    if len(chunks) == len(pieces):
        assert found == pieces
    assert found[0] == pieces[0]


def test_a_long_text_is_read_to_its_end(byte_tokenizer):
    ids = [byte for piece in range(100) for byte in [piece] * 10]
    text = bytes(ids).decode()
    chunks = cut(byte_tokenizer(), text, tokens=100, chunk=10)
    assert [chunk[0] for chunk in chunks] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_only_a_huge_text_is_read_in_excerpts(byte_tokenizer, monkeypatch):
    read, encode = [], byte_tokenizer.encode
    monkeypatch.setattr(
        byte_tokenizer, "encode", lambda *a, **k: read.append(a[1]) or encode(*a, **k)
    )
    large = "".join(chr(ord("a") + i % 23) for i in range(100 * LETTERS))
    for text in (large, large + "z", 50 * large):
        chunks = cut(byte_tokenizer(), text, tokens=100, chunk=10)
        assert len(chunks) == 10
        assert bytes(chunks[0]).decode() == text[:10]
        assert (read[-1] == text) == (text == large)
        assert len(read[-1]) <= 100 * LETTERS + 127  # newlines between excerpts
        assert read[-1].endswith(text[-10:])


def test_the_default_text_is_read_whole():
    assert len(default_text()) < 8192 * LETTERS  # the fewest tokens that a command takes by default


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_empty_text_is_refused(byte_tokenizer, text):
    with pytest.raises(StropError, match="the text is empty"):
        cut(byte_tokenizer(), text, 800, 100)


def test_too_little_text_says_how_much_is_needed(byte_tokenizer):
    with pytest.raises(StropError, match=r"the text has 799 tokens.* 8 chunks .*\(800\)"):
        cut(byte_tokenizer(), "x" * 799, 16384, 100)
    assert len(cut(byte_tokenizer(), "x" * 800, 16384, 100)) == 8


def test_too_few_tokens_asked_for_says_how_many_are_needed(byte_tokenizer):
    with pytest.raises(StropError, match=r"at least 8 chunks of 512 tokens \(4096\)"):
        cut(byte_tokenizer(), "x" * 10_000, 4095, 512)
