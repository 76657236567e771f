"""A tokenizer as the metadata of a GGUF file: the inverse of `strop.models.gguf_tokenizer`.

Byte-level BPE tokenizers are written whose way of cutting text into words has a name in GGUF. All
others are an error: llama.cpp would read other tokens than the model was trained with.
"""

from __future__ import annotations

import json
from itertools import product
from typing import Any

from tokenizers import pre_tokenizers

from strop.console import say
from strop.errors import StropError
from strop.models.gguf_tokenizer import NAMED, WORDS, TokenType, Words
from strop.models.tokenizer import Tokenizer

#: To llama.cpp "default" is another rule than that of GPT-2, which our reader takes it for.
AMBIGUOUS = "default"


def tokenizer_metadata(tokenizer: Tokenizer, rows: int, where: str) -> dict[str, Any]:
    """Return what a GGUF file says about a tokenizer, for an embedding of so many rows.

    Raises StropError, beginning with `where`, for what GGUF has no words for.
    """
    rules = json.loads(tokenizer.backend.to_str())
    tokens, types = token_list(tokenizer, rules["added_tokens"], rows, where)
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule_name(rules, tokens, where),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges(rules["model"]),
    }
    ids = special_ids(tokenizer)
    add_bos, add_eos = framing(tokenizer, ids, where)
    metadata |= {f"tokenizer.ggml.{name}_token_id": index for name, index in ids.items()}
    metadata |= {
        "tokenizer.ggml.add_bos_token": add_bos,
        "tokenizer.ggml.add_eos_token": add_eos,
    }
    template = tokenizer.template
    return metadata | ({"tokenizer.chat_template": template} if template else {})


def token_list(
    tokenizer: Tokenizer, added: list[dict[str, Any]], rows: int, where: str
) -> tuple[list[str], list[int]]:
    """Return text and type of each row of the embedding; rows without a token are unused ones."""
    known = tokenizer.backend.get_vocab(with_added_tokens=True)
    if known and max(known.values()) >= rows:
        raise StropError(f"{where}: {max(known.values()) + 1} tokens, but {rows} embedding rows")
    # Named as llama.cpp's converter names them.
    tokens = [f"[PAD{row}]" for row in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    for text, index in known.items():
        tokens[index], types[index] = text, int(TokenType.NORMAL)
    if len(set(tokens)) < rows:
        raise StropError(f"{where}: a token has the name of an unused row of the embedding")
    for token in added:
        if any(token[flag] for flag in ("single_word", "lstrip", "rstrip")):
            raise cannot(where, f"the token {token['content']!r} takes in what is around it")
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        types[token["id"]] = int(kind)
    return tokens, types


def rule_name(rules: dict[str, Any], tokens: list[str], where: str) -> str:
    """Return what GGUF calls the rule by which a tokenizer cuts text into words."""
    model = rules["model"]
    plain = not any(
        model.get(key)
        for key in ("byte_fallback", "continuing_subword_prefix", "dropout", "end_of_word_suffix")
    )
    decoder = (rules["decoder"] or {}).get("type")
    if model["type"] != "BPE" or not plain or decoder != "ByteLevel":
        raise cannot(where, "it is not byte-level BPE")
    if model.get("unk_token") and not {*pre_tokenizers.ByteLevel.alphabet()} <= {*tokens}:
        raise cannot(where, "it has an unknown token for bytes that are not in the vocabulary")
    words = read_words(rules)
    for name, known in WORDS.items():
        # Whether a text begins with BOS is said in the file, whatever the rule.
        if name != AMBIGUOUS and words == Words(**vars(known) | {"add_bos": False}):
            return name
    raise cannot(where, "its rule for words has no name in GGUF")


def read_words(rules: dict[str, Any]) -> Words | None:
    """Return how a tokenizer cuts text into words, None if in a way that is not understood."""
    normal = flattened(rules["normalizer"], "normalizers")
    steps = flattened(rules["pre_tokenizer"], "pretokenizers")
    digits = bool(steps) and steps[0] == {"type": "Digits", "individual_digits": True}
    steps = steps[1:] if digits else steps
    pattern = split_pattern(steps[0]) if steps else None
    steps = steps[1:] if pattern is not None else steps
    if normal not in ([], [{"type": "NFC"}]) or len(steps) != 1:
        return None
    last = {key: value for key, value in steps[0].items() if key != "trim_offsets"}
    if last != {"type": "ByteLevel", "add_prefix_space": False, "use_regex": pattern is None}:
        return None
    whole = bool(rules["model"].get("ignore_merges"))
    return Words(pattern, single_digits=digits, compose=bool(normal), whole_words=whole)


def flattened(step: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    """Return the steps of a sequence, or of a single one."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [one for part in step[parts] for one in flattened(part, parts)]


def split_pattern(step: dict[str, Any]) -> str | None:
    """Return the regular expression that words match, if that is what a step is."""
    if step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
        return None
    pattern: str | None = step["pattern"].get("Regex")
    return pattern


def merges(model: dict[str, Any]) -> list[str]:
    """Return the merges as GGUF writes them; tokens of bytes hold no spaces."""
    return [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of the tokens that GGUF names: bos, eos, unknown, padding, eot."""
    texts = {name: tokenizer.tokens.get(key) for key, name in NAMED.items()}
    found = {name: tokenizer.backend.token_to_id(text) for name, text in texts.items() if text}
    ids = {name: int(index) for name, index in found.items() if index is not None}
    ends = sorted(tokenizer.end_ids - {ids.get("eos")})
    if ends and "eos" not in ids:
        ids["eos"] = ends.pop(0)
    if ends:
        ids["eot"] = ends.pop(0)
    if ends:
        texts_left = ", ".join(str(tokenizer.backend.id_to_token(index)) for index in ends)
        say(f"GGUF names two tokens that end a text: left out {texts_left}")
    return ids


def framing(tokenizer: Tokenizer, ids: dict[str, int], where: str) -> tuple[bool, bool]:
    """Tell whether the tokenizer puts BOS before a text, and EOS behind it."""
    inside, framed = tokenizer.encode("a", special=False), tokenizer.encode("a")
    for before, behind in product((False, True), repeat=2):
        if framed == [ids.get("bos")] * before + inside + [ids.get("eos")] * behind:
            return before, behind
    raise cannot(where, "it puts other tokens than BOS and EOS around a text")


def cannot(where: str, reason: str) -> StropError:
    """Build the error for a tokenizer that cannot be written."""
    return StropError(f"{where}: its tokenizer cannot be written as GGUF: {reason}")
