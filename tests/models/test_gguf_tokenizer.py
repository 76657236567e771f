from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

import strop.models
from strop.models.convert import convert_gguf

TEXTS = [
    "",
    " ",
    "the thing",
    "Hello, world! It's 12 o'clock; I'LL go.",
    "1234567 12 2024-11-22 3.14159",
    "  two  spaces   three\n\n\nlines\r\n\ttabs \t ",
    "def f(x):\n    return x[1:] ** 2  # 12%",
    "naïve café Ωμέγα ÅÅ étude",
    "日本語のテキスト 中文 한국어 हिन्दी १२३",
    "😀 👩‍👩‍👧‍👦 🇩🇪 ½ x² ² 10½",
    "a\u00a0b\u3000c\u200bd\u2028e",
    "<|im_start|>user\nhi<|im_end|>\n",
    "x<|endoftext|> <|im_start|>the",
    "\x00\x01\x7f",
]

GPT2 = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORD_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORD_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: What the tokenizer.json of the original models does before merging.
ORIGINAL: dict[str, tuple[Any, list[Any]]] = {
    "gpt-2": (None, [pre_tokenizers.Split(Regex(GPT2), "isolated")]),
    "smollm": (
        None,
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(GPT2), "isolated"),
        ],
    ),
    "llama-bpe": (None, [pre_tokenizers.Split(Regex(WORD_LLAMA3), "isolated")]),
    "qwen2": (normalizers.NFC(), [pre_tokenizers.Split(Regex(WORD_QWEN2), "isolated")]),
}


def with_rule(name: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def edit(metadata: dict[str, Any], _: dict[str, Any]) -> None:
        metadata["tokenizer.ggml.pre"] = name

    return edit


def converted(path: Path) -> Path:
    directory = path.with_suffix("")
    directory.mkdir()
    convert_gguf(path, directory)
    return directory


@pytest.mark.parametrize("rule", ORIGINAL)
def test_words_are_cut_as_in_the_original_models(
    rule: str, tmp_path: Path, tiny_network: Any, write_gguf: Callable[..., Path]
) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_network, edit=with_rule(rule))
    ours = strop.models.Tokenizer.from_directory(converted(path))
    metadata = strop.models.gguf_file.GGUFFile(path).metadata
    tokens = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    original = Tokenizer(models.BPE(tokens, merges))
    normalizer, steps = ORIGINAL[rule]
    if normalizer is not None:
        original.normalizer = normalizer
    original.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    original.decoder = decoders.ByteLevel()
    original.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    for text in TEXTS:
        assert ours.encode(text, special=False) == original.encode(text).ids, text
        if rule != "qwen2":  # which composes characters
            assert ours.decode(ours.encode(text, special=False), special=True) == text


def test_rules_differ_where_they_should(
    tmp_path: Path, tiny_network: Any, write_gguf: Callable[..., Path]
) -> None:
    # The vocabulary has "12": only rules that cut digits off keep it from being used.
    encoded = {}
    for rule in ORIGINAL:
        path = write_gguf(tmp_path / f"{rule}.gguf", tiny_network, edit=with_rule(rule))
        tokenizer = strop.models.Tokenizer.from_directory(converted(path))
        encoded[rule] = tokenizer.encode("12", special=False)
    assert len(encoded["gpt-2"]) == len(encoded["llama-bpe"]) == 1
    assert len(encoded["smollm"]) == len(encoded["qwen2"]) == 2


@pytest.mark.parametrize("rule", ["gpt-2", "llama-bpe"])
def test_it_equals_the_conversion_of_transformers(
    rule: str, tmp_path: Path, tiny_network: Any, write_gguf: Callable[..., Path]
) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_network, edit=with_rule(rule))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    ours = strop.models.Tokenizer.from_directory(converted(path))
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text


def test_bos_is_added_by_default_where_llama_cpp_does(
    tmp_path: Path, tiny_network: Any, write_gguf: Callable[..., Path]
) -> None:
    for rule, expected in (("llama-bpe", [1]), ("smollm", [])):

        def edit(metadata: dict[str, Any], tensors: dict[str, Any], rule: str = rule) -> None:
            with_rule(rule)(metadata, tensors)
            del metadata["tokenizer.ggml.add_bos_token"]

        directory = converted(write_gguf(tmp_path / f"{rule}.gguf", tiny_network, edit=edit))
        ours = strop.models.Tokenizer.from_directory(directory)
        theirs = transformers.AutoTokenizer.from_pretrained(directory)
        assert ours.encode("") == expected == theirs.encode("")
        assert ours.encode("", special=False) == []


def test_eos_is_added_when_the_file_says_so(
    tmp_path: Path, tiny_network: Any, write_gguf: Callable[..., Path]
) -> None:
    def edit(metadata: dict[str, Any], _: dict[str, Any]) -> None:
        metadata |= {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}

    directory = converted(write_gguf(tmp_path / "model.gguf", tiny_network, edit=edit))
    ours = strop.models.Tokenizer.from_directory(directory)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert ours.encode("the") == theirs.encode("the")
    assert (ours.encode("the")[0], ours.encode("the")[-1]) == (1, 2)


def sentencepiece(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Replace the tokenizer by one with scores and byte fallback, as Llama 2 has it."""
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    words = ["▁", "t", "h", "e", "i", "n", "g", "s", "▁t", "he", "▁the", "in", "ing", "▁▁", "th"]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *words][:271]
    scores = [0.0] * 259 + [-float(index) for index in range(len(tokens) - 259)]
    scores[tokens.index("▁the")] = -1.5
    for key in ("pre", "merges", "add_bos_token"):
        del metadata[f"tokenizer.ggml.{key}"]
    metadata |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
    }


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_equals_transformers(
    prefix: bool, tmp_path: Path, tiny_network: Any, write_gguf: Callable[..., Path]
) -> None:
    def edit(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        sentencepiece(metadata, tensors)
        metadata["tokenizer.ggml.add_space_prefix"] = prefix

    path = write_gguf(tmp_path / "model.gguf", tiny_network, edit=edit)
    directory = converted(path)
    ours = strop.models.Tokenizer.from_directory(directory)
    same_files = transformers.AutoTokenizer.from_pretrained(directory)
    for text in [*TEXTS, "the things the", " the", "</s>the"]:
        ids = ours.encode(text)
        assert ids == same_files.encode(text), text
        if prefix or not text:
            theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
            assert ids == theirs.encode(text), text
        assert ids[0] == 1
        assert ours.decode(ids) == same_files.decode(ids, skip_special_tokens=True)
    assert ours.decode(ours.encode("the 日 things")) == "the 日 things"
