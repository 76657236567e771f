"""Text to token ids and back, from tokenizer.json alone: equal to transformers' AutoTokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from strop.data import read_json, read_text
from strop.errors import StropError
from strop.models import chat

#: Variables of chat templates, and keys of tokenizer_config.json
NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

#: How a token is matched in text, as tokenizers.AddedToken names it
TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

#: Special tokens that end a turn, when the chat template writes them. Configurations of base models
#: that were tuned for chat later often name only the end of a document.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end_of_turn|>", "</s>")


class Tokenizer:
    """A byte-pair or similar tokenizer with its special tokens and chat template."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        tokens: Mapping[str, str],
        template: str | None,
        end_ids: Iterable[int],
    ) -> None:
        self.backend = backend
        self.tokens = dict(tokens)  #: the named special tokens: bos_token, eos_token, ...
        self.template = template  #: the chat template, if the model has one
        self.end_ids = frozenset(end_ids)  #: ids after which generation stops

    @classmethod
    def from_directory(cls, directory: Path) -> Tokenizer:
        """Read the tokenizer of a directory. Raises StropError if a part is missing or broken."""
        directory = Path(directory)
        backend = read_backend(directory / "tokenizer.json")
        config = read_config(directory)
        tokens = named_tokens(config)
        add_missing_tokens(backend, config)
        template = read_template(directory, config)
        return cls(backend, tokens, template, read_end_ids(directory, backend, tokens, template))

    @property
    def size(self) -> int:
        """Return the number of token ids."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Return the ids of a text; `special` adds what the model expects around it (often a BOS).

        Special tokens written out in the text become their ids. Raises StropError for text that is
        not Unicode (lone surrogates).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise StropError(f"text is not valid Unicode at character {error.start}") from error
        return list(self.backend.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """Return the text of some ids; `special` keeps special tokens visible."""
        return str(self.backend.decode(list(ids), skip_special_tokens=not special))

    def chat(self, messages: Sequence[chat.Message], generation_prompt: bool = True) -> str:
        """Render messages with the chat template, ready for `encode(..., special=False)`.

        `generation_prompt` opens the assistant's turn. Raises StropError without a template.
        """
        if self.template is None:
            raise StropError("this model has no chat template: give it a plain prompt instead")
        return chat.render(self.template, messages, generation_prompt, self.tokens)


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """Read tokenizer.json, without the truncation or padding that a training run left in it."""
    if not path.is_file():
        raise StropError(f"{path.parent}: no tokenizer.json: only models with one can be read")
    text = read_text(path)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise StropError(f"{path}: not a tokenizer: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def read_config(directory: Path) -> dict[str, Any]:
    """Read tokenizer_config.json, and special_tokens_map.json in the older layout that needs it."""
    config = read_object(directory / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config.update(read_object(directory / "special_tokens_map.json"))
    return config


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an optional file that is not there is an empty one."""
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise StropError(f"{path}: expected a JSON object")
    return value


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of bos_token, eos_token, ... as far as the configuration has them."""
    return {name: content(config[name]) for name in NAMED_TOKENS if config.get(name) is not None}


def content(token: Any) -> str:
    """Return the text of a token that is spelled as a string or as {"content": ...}."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise StropError(f"tokenizer_config.json: not a token: {token!r}")
    return text


def add_missing_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Add the tokens that only tokenizer_config.json knows, in the order of transformers."""
    decoder = config.get("added_tokens_decoder", {})
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if not isinstance(decoder, dict) or not isinstance(extra, dict | list):
        raise StropError("tokenizer_config.json: added tokens must be an object, extra ones a list")
    named = [config[name] for name in NAMED_TOKENS if config.get(name) is not None]
    wanted = [added_token(entry) for _, entry in sorted(decoder.items(), key=by_number)]
    for entry in [*named, *(extra.values() if isinstance(extra, dict) else extra)]:
        token = added_token(entry)
        token.special = True
        wanted.append(token)
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in wanted:
        if token.content not in known:
            known.add(token.content)
            backend.add_tokens([token])


def added_token(entry: Any) -> tokenizers.AddedToken:
    """Build a token from its text, or from an object with text and flags."""
    if isinstance(entry, str):
        return tokenizers.AddedToken(entry, special=True)
    text = content(entry)
    flags = {flag: bool(entry[flag]) for flag in TOKEN_FLAGS if flag in entry}
    return tokenizers.AddedToken(text, **flags)


def by_number(item: tuple[str, Any]) -> int:
    """Return the id of an entry of added_tokens_decoder, whose keys are numbers as text."""
    if not item[0].isdecimal():
        raise StropError(f"tokenizer_config.json: not a token id: {item[0]!r}")
    return int(item[0])


def read_template(directory: Path, config: Mapping[str, Any]) -> str | None:
    """Read the chat template: its own file comes before the configuration's entry."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return read_text(path)
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        if not all(
            isinstance(one, dict) and {"name", "template"} <= one.keys() for one in template
        ):
            raise StropError(
                f"{directory / 'tokenizer_config.json'}: chat_template: no name or text"
            )
        template = next((one["template"] for one in template if one["name"] == "default"), None)
    if template is not None and not isinstance(template, str):
        raise StropError(f"{directory / 'tokenizer_config.json'}: chat_template is not text")
    return template


def read_end_ids(
    directory: Path, backend: tokenizers.Tokenizer, tokens: Mapping[str, str], template: str | None
) -> set[int]:
    """Collect the ids that end a text: declared in any of the files, or ending a chat turn."""
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        declared = read_object(directory / name).get("eos_token_id")
        if declared is not None:
            listed = declared if isinstance(declared, list) else [declared]
            if not all(isinstance(entry, int) for entry in listed):
                raise StropError(f"{directory / name}: eos_token_id is not a token id: {declared}")
            ends.update(listed)
    special = {
        token.content: index
        for index, token in backend.get_added_tokens_decoder().items()
        if token.special
    }
    texts = [text for text in TURN_ENDS if template is not None and text in template]
    texts += [tokens["eos_token"]] if "eos_token" in tokens else []
    return ends | {special[text] for text in texts if text in special}
