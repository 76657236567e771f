"""From texts to tokens: prompts in the chat template, answers with exactly one end."""

from __future__ import annotations

from collections.abc import Sequence

from strop.data import Prompt
from strop.decoding.chat import encode_prompt
from strop.errors import StropError
from strop.models.tokenizer import Tokenizer
from strop.training.sequences import Tokens


class TooLong(ValueError):
    """A prompt with an answer that the context does not hold; says so in a few words."""


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> Tokens:
    """Return the tokens of a prompt, up to where the answer begins; see `prompt_text`."""
    return tuple(encode_prompt(tokenizer, prompt))


def end_id(tokenizer: Tokenizer) -> int:
    """Return the token that ends an answer: the turn's end, where the chat template writes one.

    Raises StropError for a tokenizer that has none.
    """
    token = tokenizer.tokens.get("eos_token")
    index = None if token is None else tokenizer.backend.token_to_id(token)
    candidates = sorted(tokenizer.end_ids)
    if tokenizer.template is not None:
        for candidate in candidates:
            text = tokenizer.backend.id_to_token(candidate)
            if text and text in tokenizer.template:
                return candidate
    if index is not None:
        return int(index)
    if not candidates:
        raise StropError("the model's tokenizer has no token that ends a text")
    return candidates[0]


def answer_ids(tokenizer: Tokenizer, text: str) -> Tokens:
    """Return the tokens of an answer, with the end."""
    ids = tokenizer.encode(text, special=False)
    while ids and ids[-1] in tokenizer.end_ids:  # written out in the text
        ids.pop()
    return (*ids, end_id(tokenizer))


def check_length(prompt: Tokens, answers: Sequence[Tokens], most: int) -> None:
    """Raise TooLong for what the context does not hold."""
    if len(prompt) >= most:
        raise TooLong(f"prompt longer than the context of {most} tokens")
    if len(prompt) + max(map(len, answers)) > most:
        raise TooLong(f"prompt and answer longer than the context of {most} tokens")
