from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from strop.decoding.text import Detokenizer, StopStrings


def pieces_of(decode, tokens):
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.push(token) for token in tokens]
    return [*pieces, detokenizer.flush()]


def test_characters_arrive_whole(tokenizer):
    text = "naïve 日本語 👩‍🚀!"
    tokens = tokenizer.encode(text)
    pieces = pieces_of(tokenizer.decode, tokens)
    assert "".join(pieces) == text
    assert [piece for piece in pieces if piece] == list(text)
    assert "\ufffd" in "".join(tokenizer.decode([token]) for token in tokens)  # the naive way


@given(data=st.lists(st.integers(0, 257), max_size=60))
def test_any_tokens_join_to_the_decoded_whole(tokenizer, data):
    pieces = pieces_of(tokenizer.decode, data)
    assert "".join(pieces) == tokenizer.decode(data)


@given(text=st.text(max_size=40))
def test_any_text_never_shows_an_unfinished_character(tokenizer, text):
    pieces = pieces_of(tokenizer.decode, tokenizer.encode(text))
    assert "".join(pieces) == text
    shown = ""
    for piece in pieces:
        shown += piece
        assert text.startswith(shown)


def sentencepiece_like():
    """Words with a leading mark and bytes where there is no word, as Llama 2 has them."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "▁cat", "s", "▁"]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return backend


@given(
    parts=st.lists(
        st.sampled_from(["▁the", "▁cat", "s", "▁", "é", "日", "\n"]), min_size=1, max_size=20
    )
)
def test_spaces_and_byte_fallback_of_other_tokenizers_survive(parts):
    backend = sentencepiece_like()
    tokens = []
    for part in parts:
        known = backend.token_to_id(part)
        spelled = [backend.token_to_id(f"<0x{byte:02X}>") for byte in part.encode()]
        tokens += [known] if known is not None else spelled
    assert "".join(pieces_of(backend.decode, tokens)) == backend.decode(tokens)


def cut(text, stops):
    """Read character by character: the first stop string to be complete ends the text."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(
    pieces=st.lists(st.text("ab<", max_size=5), max_size=12),
    stops=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_do_not_depend_on_how_the_text_is_cut(pieces, stops):
    text, stopped = cut("".join(pieces), stops)
    filter_ = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += filter_.push(piece)
        assert text.startswith(shown)  # nothing of a stop string, ever
        if filter_.found is not None:
            break
        # What is held back could be the start of a stop string: no more than that.
        assert len(filter_.held) < max((len(stop) for stop in stops), default=1)
    shown += filter_.flush()
    assert (shown, filter_.found is not None) == (text, stopped)


def test_text_is_held_back_only_while_it_may_be_a_stop_string():
    filter_ = StopStrings(["</end>"])
    assert [filter_.push(piece) for piece in ("a<", "/e", "x", "b</")] == ["a", "", "</ex", "b"]
    assert filter_.flush() == "</"
