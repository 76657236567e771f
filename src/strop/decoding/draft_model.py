"""Drafts by a smaller model: another one, or the upper plane of the same one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from strop.decoding.cache import CachedSession, common_prefix
from strop.decoding.costs import known_costs
from strop.decoding.drafters import Drafter, Guess
from strop.decoding.rejection import draw_guess, softmax
from strop.decoding.sampling import Sampling, candidates, draw
from strop.errors import StropError
from strop.models.interface import Logits, Model, Session
from strop.models.native_backend import NativeModel
from strop.models.tokenizer import Tokenizer

#: Guesses are sorted by the probability that the smaller model gives them.
CONFIDENCES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
PRIORS = (0.05, 0.1, 0.15, 0.25, 0.35, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def guess_from(
    logits: Logits,
    history: Sequence[int] | NDArray[np.int64],
    sampling: Sampling,
    position: int,
    named: NDArray[np.int64] | None = None,
) -> Guess:
    """Guess a token as the model would choose it from these logits, with the same noise.

    By the rejection rule with noise of its own, and the law that it was drawn from. `named` are the
    tokens of the logits, ascending, if those are not of all tokens; `history` and the bias of
    `sampling` are in places among them.
    """
    places, scores = candidates(logits, history, sampling, position)
    tokens = places if named is None else named[places]
    if sampling.rule == "rejection":
        law = softmax(tokens, scores)
        token = draw_guess(law, sampling.seed, position)
        return Guess(token, kind_of(float(law.probabilities.max())), law)
    token = draw(tokens, scores, sampling.seed, position)
    best = logits[token if named is None else np.searchsorted(named, token)]
    return Guess(token, kind_of(float(1 / np.exp(logits - best).sum())))


def kind_of(probability: float) -> int:
    """Return the kind of a guess of this probability."""
    return int(np.searchsorted(CONFIDENCES, probability))


class ModelDrafter:
    """Guesses what another model with the same tokens would say."""

    priors = PRIORS

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = model.name
        self.seconds = known_costs(model).seconds[0]
        self.cache = CachedSession(model.session())
        self.tokens: list[int] = []

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""
        self.tokens, self.sampling = list(prompt), sampling
        if len(prompt) < self.model.context_length:
            self.cache.prefill(prompt)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens, and roll back guesses that they are not."""
        known = len(self.tokens)
        self.tokens += tokens
        if len(self.cache.tokens) > known:
            self.cache.truncate(known + common_prefix(self.cache.tokens[known:], tokens))

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next tokens."""
        text = list(self.tokens)
        while len(text) < self.model.context_length:
            start = min(len(self.cache.tokens), len(text) - 1)
            self.cache.truncate(start)
            row = self.cache.forward(text[start:], last=1)[-1]
            guess = guess_from(row, text, self.sampling, len(text))
            yield guess
            text.append(guess.token)


class NestedDrafter:
    """Guesses by the upper plane of a model in a nested format.

    It works in the model's own session: what it writes there, the model writes over.
    """

    bounded = True
    name = "nested"
    priors = PRIORS

    def __init__(self, model: Model) -> None:
        """Take a packed model; StropError if none of its weights has two planes."""
        if not isinstance(model, NativeModel):
            raise StropError(f"{model.name}: nested drafts need a model packed as bfp8n")
        name = f"{model.name}, upper plane"
        self.model: Model = NativeModel(name, model.directory, model.kv, upper=True)
        self.seconds = known_costs(self.model).seconds[0]

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""
        self.tokens, self.sampling, self.session = list(prompt), sampling, session

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens."""
        self.tokens += tokens

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next tokens."""
        text, start = list(self.tokens), self.session.length
        try:
            while len(text) < self.model.context_length:
                rows = self.model.forward([self.session], [text[self.session.length :]], last=1)
                guess = guess_from(rows[0][-1], text, self.sampling, len(text))
                yield guess
                text.append(guess.token)
        finally:
            self.session.truncate(start)


class TranslatingDrafter:
    """Guesses what a model with other tokens would write, in the tokens of this one.

    The text so far is given to the other model as text; what it writes, greedily, is cut into this
    model's tokens together with the end of the text before. (Universal assisted generation, in the
    transformers library, 2024.)
    """

    priors = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15)  # by the number of guesses before

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.name = model.name
        self.seconds = known_costs(model).seconds[0]
        self.cache = CachedSession(model.session())

    def start(self, prompt: Sequence[int], sampling: Sampling, session: Session) -> None:
        """Begin a text."""
        self.tokens = list(prompt)
        text = self.theirs()
        if 0 < len(text) < self.model.context_length:
            self.cache.prefill(text)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take the next tokens."""
        self.tokens += tokens

    def theirs(self) -> list[int]:
        """Return the text so far in the other model's tokens."""
        return self.model.tokenizer.encode(self.tokenizer.decode(self.tokens), special=False)

    def propose(self) -> Generator[Guess, None, None]:
        """Guess the next tokens: each once the text goes on after it."""
        tail = self.tokens[-OVERLAP:]
        before = self.tokenizer.decode(tail)
        given = 0
        for text in self.write():
            cut = self.tokenizer.encode(before + text, special=False)
            start = common_prefix(cut, tail)
            if start < len(tail):
                return  # the text before is cut in another way now
            for token in cut[start + given : -1]:
                yield Guess(token, min(given, len(self.priors) - 1))
                given += 1

    def write(self) -> Iterator[str]:
        """Continue the text; yield all that was added, after each token."""
        prompt = self.theirs()
        text = list(prompt)
        while prompt and len(text) < self.model.context_length:
            rows, _ = self.cache.prefill(text)
            text.append(int(np.argmax(rows[-1])))
            yield self.model.tokenizer.decode(text[len(prompt) :])


OVERLAP = 8  # tokens of the text before with which new text is cut into tokens


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Tell whether two tokenizers give every token the same number."""
    return bool(one.backend.get_vocab() == other.backend.get_vocab())


def model_drafter(drafting: Model, model: Model) -> Drafter:
    """Return a drafter that asks another model; how depends on their tokenizers."""
    if same_tokens(drafting.tokenizer, model.tokenizer) and drafting.vocabulary <= model.vocabulary:
        return ModelDrafter(drafting)
    return TranslatingDrafter(drafting, model.tokenizer)
