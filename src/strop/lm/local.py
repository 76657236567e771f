"""A model on this machine, packed or on PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from strop.data import Prompt
from strop.decoding import CachedSession, Sampling, complete_many, encode_prompt, prompt_text
from strop.decoding.cache import PREFILL_CHUNK, common_prefix
from strop.decoding.generate import beginning
from strop.errors import StropFailure
from strop.lm.interface import Answer, Failed, Scores
from strop.models.identity import model_identity
from strop.models.interface import Logits, Model
from strop.models.tokenizer import Tokenizer


class LocalModel:
    """A loaded model; without `chat`, prompts of text are continued as they are."""

    def __init__(self, model: Model, chat: bool = True) -> None:
        """Take a loaded model."""
        self.model = model
        self.name = model.name
        self.chat = chat and model.tokenizer.template is not None

    @cached_property
    def identity(self) -> str:
        """Return the hash of the files: also of the tokenizer and its template, which count.

        A network that was in memory already has weights only. Every row that is kept says it.
        """
        directory = self.model.directory
        return model_identity(str(directory)) if directory.is_dir() else self.model.fingerprint

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sequence[Sampling], options: Sequence[str] = ()
    ) -> Iterator[tuple[int, Answer | Failed]]:
        """Answer prompts, several at a time; see `LanguageModel`."""
        tokenizer, room = self.model.tokenizer, self.model.context_length
        tokens = [single_token(self.model, option) for option in options]
        known = [token for token in tokens if token is not None]
        encoded = [encode_prompt(tokenizer, one, raw=not self.chat) for one in prompts]
        marks = marks_of_turns(tokenizer) if self.chat else ()
        fitting = []
        for number, (prompt, ids) in enumerate(zip(prompts, encoded, strict=True)):
            if mark := next((one for one in marks if one in content(prompt)), None):
                yield number, Failed(f"holds {mark}, which would end a message of the chat")
            elif len(ids) >= room:
                yield number, too_long(room)
            else:
                fitting.append(number)
        for place, one in complete_many(
            self.model,
            [encoded[number] for number in fitting],
            [sampling[number] for number in fitting],
            options=known,
        ):
            number = fitting[place]
            logps = dict(zip(known, one.options, strict=True))
            yield (
                number,
                Answer(
                    text=one.text,
                    finish_reason=one.finish_reason,
                    prompt_tokens=len(encoded[number]),
                    tokens=len(one.tokens),
                    options=tuple(None if token is None else logps[token] for token in tokens),
                ),
            )

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, Scores | Failed]]:
        """Score answers to prompts; see `LanguageModel`."""
        encoded = [encode_pair(self.model, *pair, raw=not self.chat) for pair in pairs]
        cache = CachedSession(self.model.session())
        room = self.model.context_length
        # In the order of their tokens neighbours have most in common.
        for number in sorted(range(len(encoded)), key=encoded.__getitem__):
            prompt, answer = encoded[number]
            if not answer:
                yield number, Failed("the answer has no tokens")
            elif len(prompt) + len(answer) > room:
                yield number, too_long(room)
            else:
                yield number, scored(cache, prompt, answer)


def marks_of_turns(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return the special tokens that the chat template writes around messages.

    In a message they would become these tokens too: an answer that is to be graded could end the
    question, and begin the reply of the one who grades.
    """
    rendered = tokenizer.chat([{"role": "user", "content": ""}])
    added = tokenizer.backend.get_added_tokens_decoder().values()
    return tuple(one.content for one in added if one.special and one.content in rendered)


def content(prompt: Prompt) -> str:
    """Return all that the messages of a prompt say."""
    return prompt if isinstance(prompt, str) else "\n".join(one["content"] for one in prompt)


def too_long(room: int) -> Failed:
    """Say that a prompt does not fit."""
    return Failed(f"longer than the context of {room} tokens")


def single_token(model: Model, option: str) -> int | None:
    """Return the token that an option is, None if it is several."""
    ids = model.tokenizer.encode(option, special=False)
    return ids[0] if len(ids) == 1 else None


def encode_pair(
    model: Model, prompt: Prompt, answer: str, raw: bool
) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt and of the answer.

    After a chat template the answer stands alone, as in training. Plain text is encoded whole, and
    spaces at the end of the prompt belong to the answer, as most tokenizers put a space before a
    word (the rule of lm-evaluation-harness, so that scores are comparable); a prompt without tokens
    becomes the token that a text begins after.
    """
    tokenizer = model.tokenizer
    text, plain = prompt_text(tokenizer, prompt, raw)
    if not plain:
        return tokenizer.encode(text, special=False), tokenizer.encode(answer, special=False)
    before = tokenizer.encode(text.rstrip())
    whole = tokenizer.encode(text + answer)
    return before or [beginning(model)], whole[len(before) :]


def scored(cache: CachedSession, prompt: list[int], answer: list[int]) -> Scores:
    """Score an answer, from where the cache agrees with its prompt."""
    whole = prompt + answer
    # The logits that predict the answer begin with those of the prompt's last token.
    cache.truncate(min(common_prefix(cache.tokens, whole), len(prompt) - 1))
    start = len(cache.tokens)
    logps: list[float] = []
    greedy = True
    for begin in range(start, len(whole) - 1, PREFILL_CHUNK):
        end = min(begin + PREFILL_CHUNK, len(whole) - 1)
        rows = end - max(begin, len(prompt) - 1)
        logits = cache.forward(whole[begin:end], last=max(rows, 0))
        if rows > 0:
            targets = whole[end - rows + 1 : end + 1]
            logps += token_logps(logits, targets).tolist()
            greedy = greedy and bool((logits.argmax(axis=1) == targets).all())
    if not np.isfinite(logps).all():
        raise StropFailure("the model's log-probabilities are not finite")
    return Scores(tuple(logps), greedy)


def token_logps(logits: Logits, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Return the log of the softmax of each row of logits at its token, float64 (n,)."""
    top = logits.max(axis=1)
    total = np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(tokens)), tokens]
    found: NDArray[np.float64] = chosen.astype(np.float64) - top - np.log(total)
    return found
