"""The tokenizer inside a GGUF file, written as tokenizer.json and tokenizer_config.json.

GGUF keeps the vocabulary, the merges or scores, and the name of the rule that cuts text into words
("pre-tokenizer"). The rules behind the names are those of the models' own tokenizer.json files.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from strop.data import write_json
from strop.models.gguf_file import GGUFFile


class TokenType(IntEnum):
    """Kinds of tokens (tokenizer.ggml.token_type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Words:
    """How a byte-level tokenizer cuts text into the words inside which it merges."""

    pattern: str | None = None  #: regular expression of a word; None: that of GPT-2
    single_digits: bool = False  #: cut every digit off first
    compose: bool = False  #: normalize to NFC first
    whole_words: bool = False  #: take a word that is in the vocabulary without merging
    add_bos: bool = False  #: start with BOS when the file does not say


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")  # digits one by one
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

#: tokenizer.ggml.pre -> the rule.
WORDS = {
    "default": Words(),
    "gpt-2": Words(),
    "smollm": Words(single_digits=True),
    "starcoder": Words(single_digits=True),
    "refact": Words(single_digits=True),
    "llama-bpe": Words(LLAMA3, whole_words=True, add_bos=True),
    "llama3": Words(LLAMA3, whole_words=True, add_bos=True),
    "llama-v3": Words(LLAMA3, whole_words=True, add_bos=True),
    "tekken": Words(TEKKEN, whole_words=True, add_bos=True),
    "qwen2": Words(QWEN2, compose=True),
    "deepseek-r1-qwen": Words(QWEN2, compose=True),
}

SPACE = "▁"  # how SentencePiece writes one

#: Keys of tokenizer_config.json -> names in tokenizer.ggml.<name>_token_id
NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def write_tokenizer(file: GGUFFile, directory: Path, rows: int) -> None:
    """Write tokenizer.json and tokenizer_config.json for a model with `rows` embedding rows."""
    tokens = texts(file, "tokenizer.ggml.tokens")
    if len(tokens) > rows:
        raise file.error(f"{len(tokens)} tokens for an embedding of {rows} rows")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise file.error("tokenizer.ggml.tokens has the same token twice")
    kind = file.required("tokenizer.ggml.model", str)
    if kind not in BUILDERS:
        raise file.error(f"tokenizer model {kind} is not supported, only {', '.join(BUILDERS)}")
    try:
        backend, add_bos = BUILDERS[kind](file, vocabulary)
    except ValueError as error:
        raise file.error(f"broken tokenizer: {error}") from error
    named = named_tokens(file, tokens)
    backend.add_tokens(added_tokens(file, tokens, named))
    add_bos = file.optional("tokenizer.ggml.add_bos_token", bool, add_bos)
    add_eos = file.optional("tokenizer.ggml.add_eos_token", bool, False)
    frame(file, backend, named, add_bos, add_eos)
    backend.save(str(directory / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # that is: tokenizer.json is the whole truth
        "clean_up_tokenization_spaces": False,
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        **named,
    }
    template = file.optional("tokenizer.chat_template", str)
    if template is not None:
        config["chat_template"] = template
    write_json(directory / "tokenizer_config.json", config)


def texts(file: GGUFFile, key: str) -> list[str]:
    """Return a metadata list of strings."""
    values: list[str] = file.required(key, list)
    if not all(isinstance(value, str) for value in values):
        raise file.error(f"metadata key {key} is not a list of strings")
    return values


def numbers(file: GGUFFile, key: str, count: int) -> list[float]:
    """Return a metadata list of `count` numbers."""
    values: list[float] = file.required(key, list)
    if len(values) != count or any(isinstance(value, str) for value in values):
        raise file.error(f"metadata key {key} is not a list of {count} numbers")
    return values


def byte_level(file: GGUFFile, vocabulary: dict[str, int]) -> tuple[Tokenizer, bool]:
    """Build a byte-level BPE tokenizer; also tell whether it starts with BOS by default."""
    name = file.required("tokenizer.ggml.pre", str)
    if name not in WORDS:
        raise file.error(f"pre-tokenizer {name} is not supported, only {', '.join(WORDS)}")
    words = WORDS[name]
    merges = [pair(file, merge, vocabulary) for merge in texts(file, "tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=words.whole_words))
    if words.compose:
        backend.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] * words.single_digits
    if words.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(words.pattern), behavior="isolated"))
    gpt2 = words.pattern is None
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend, words.add_bos


def pair(file: GGUFFile, merge: str, vocabulary: dict[str, int]) -> tuple[str, str]:
    """Split a merge into its two tokens, which must make a third."""
    left, _, right = merge.partition(" ")
    if not {left, right, left + right} <= vocabulary.keys():
        raise file.error(f"broken tokenizer: merge {merge!r:.60} makes no token")
    return left, right


def sentencepiece(file: GGUFFile, vocabulary: dict[str, int]) -> tuple[Tokenizer, bool]:
    """Build a SentencePiece BPE tokenizer with byte fallback, which starts with BOS by default."""
    unknown = file.optional("tokenizer.ggml.unknown_token_id", int, 0)
    if not 0 <= unknown < len(vocabulary):
        raise file.error(f"unknown_token_id {unknown} is not a token")
    scores = numbers(file, "tokenizer.ggml.scores", len(vocabulary))
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            merges_by_score(vocabulary, scores),
            unk_token=list(vocabulary)[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = file.optional("tokenizer.ggml.add_space_prefix", bool, True)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="first" if prefix else "never", split=False
    )
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    steps += [decoders.Strip(content=" ", left=1)] * prefix
    backend.decoder = decoders.Sequence(steps)
    return backend, True


def merges_by_score(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Recover merges from scores: every way to split a token into two, best token first.

    Ties keep the order in which transformers lists them: longer left part, then earlier pieces.
    """
    splits = [
        (score, token[:cut], token[cut:])
        for token, score in zip(vocabulary, scores, strict=True)
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    splits.sort(key=lambda split: (-split[0], -len(split[1]), -len(split[2])))
    return [(left, right) for _, left, right in splits]


BUILDERS = {"gpt2": byte_level, "llama": sentencepiece}


def named_tokens(file: GGUFFile, tokens: list[str]) -> dict[str, str]:
    """Return the text of bos_token, eos_token, ... as far as the file has them."""
    named = {}
    for key, name in NAMED.items():
        index = file.optional(f"tokenizer.ggml.{name}_token_id", int)
        if index is None:
            continue
        if not 0 <= index < len(tokens):
            raise file.error(f"{name}_token_id {index} is not a token")
        named[key] = tokens[index]
    return named


def added_tokens(file: GGUFFile, tokens: list[str], named: dict[str, str]) -> list[AddedToken]:
    """Return the tokens that are found in text as a whole, before it is cut into words."""
    types = numbers(file, "tokenizer.ggml.token_type", len(tokens))
    special = {TokenType.CONTROL, TokenType.UNKNOWN}
    return [
        AddedToken(token, normalized=False, special=kind in special or token in named.values())
        for token, kind in zip(tokens, types, strict=True)
        if token and (kind in {*special, TokenType.USER_DEFINED} or token in named.values())
    ]


def frame(
    file: GGUFFile, backend: Tokenizer, named: dict[str, str], add_bos: bool, add_eos: bool
) -> None:
    """Put BOS and EOS around encoded text."""
    for wanted, name in ((add_bos, "bos_token"), (add_eos, "eos_token")):
        if wanted and not named.get(name):
            raise file.error(f"the tokenizer adds a {name} but the file names none")
    if not add_bos and not add_eos:
        return
    bos, eos = (named["bos_token"],) * add_bos, (named["eos_token"],) * add_eos
    backend.post_processor = processors.TemplateProcessing(
        single=[*bos, "$A", *eos],
        pair=[
            *bos,
            "$A",
            *eos,
            *(f"{token}:1" for token in bos),
            "$B:1",
            *(f"{token}:1" for token in eos),
        ],
        special_tokens=[(token, backend.token_to_id(token)) for token in {*bos, *eos}],
    )
