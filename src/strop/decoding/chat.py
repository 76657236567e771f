"""A conversation with a chat model: history, a cache that lives across turns, and its limits."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from strop.data import Message, Prompt
from strop.decoding.cache import CachedSession
from strop.decoding.generate import generate
from strop.decoding.output import Delta
from strop.decoding.planner import Planner
from strop.decoding.sampling import Sampling
from strop.errors import StropError
from strop.models.interface import Model
from strop.models.tokenizer import Tokenizer


def chat_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of a conversation up to where the assistant's next answer begins.

    Raises StropError when the tokenizer has no chat template.
    """
    # The template writes the beginning-of-text token itself where the model wants one.
    return tokenizer.encode(tokenizer.chat(list(messages)), special=False)


def prompt_tokens(
    tokenizer: Tokenizer, text: str, system: str | None = None, raw: bool = False
) -> list[int]:
    """Return the tokens of one prompt, as a user's message where there is a chat template.

    With `raw`, without a template or without text it is encoded as it is. Raises StropError for a
    `system` message that has no place then.
    """
    if not raw and text and tokenizer.template is not None:
        messages = [{"role": "system", "content": system}] if system else []
        return chat_tokens(tokenizer, [*messages, {"role": "user", "content": text}])
    if system:
        reason = "leave out raw" if raw else "this model or this prompt has none"
        raise StropError(f"a system message needs a chat template and a prompt: {reason}")
    return tokenizer.encode(text)


def prompt_text(tokenizer: Tokenizer, prompt: Prompt, raw: bool = False) -> tuple[str, bool]:
    """Return what the model reads up to where the answer begins, and whether it is to be wrapped.

    Text is a user's message if the model has a chat template, unless it is `raw`. Without one,
    messages are put one after another, each under the name of its role. What a template wrote has
    all special tokens already.
    """
    if isinstance(prompt, str):
        if raw or not prompt or tokenizer.template is None:
            return prompt, True
        prompt = ({"role": "user", "content": prompt},)
    if not raw and tokenizer.template is not None:
        return tokenizer.chat([dict(one) for one in prompt]), False
    lines = [f"{one['role'].capitalize()}: {one['content']}\n\n" for one in prompt]
    return "".join(lines) + "Assistant:", True


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, raw: bool = False) -> list[int]:
    """Return the tokens of a prompt, up to where the answer begins; see `prompt_text`."""
    text, special = prompt_text(tokenizer, prompt, raw)
    return tokenizer.encode(text, special=special)


class Conversation:
    """Messages exchanged with a model. Each answer starts from the cache of the one before."""

    def __init__(
        self,
        model: Model,
        sampling: Sampling | None = None,
        system: str | None = None,
        planner: Planner | None = None,
    ) -> None:
        self.model = model
        self.sampling = sampling or Sampling()
        self.system = system
        self.planner = planner  #: guesses next tokens, see `generate`
        self.turns: list[Message] = []  #: what user and assistant said, without the system message
        self.forgotten = 0  #: turns dropped so far because the context was full
        self.cache = CachedSession(model.session())

    @property
    def messages(self) -> list[Message]:
        """Return the conversation as the model sees it."""
        return self.system_message() + self.turns

    def system_message(self) -> list[Message]:
        """Return the system message as a list, empty if there is none."""
        return [{"role": "system", "content": self.system}] if self.system else []

    def reset(self) -> None:
        """Forget what was said; the system message stays."""
        self.turns = []

    def reply(self, text: str) -> Generator[Delta, None, None]:
        """Answer a message of the user, step by step.

        The oldest turns are dropped when they would leave no room for an answer of
        `sampling.max_tokens` (or half the context, if that is less). An answer that the caller
        breaks off stays in the history as far as it got; a message without any answer does not.
        Raises StropError when the message alone is longer than the context; the history is then
        as it was before.
        """
        turns = [*self.turns, {"role": "user", "content": text}]
        turns, forgotten, tokens = self.fit(turns)
        deltas = generate(self.model, tokens, self.sampling, self.cache, self.planner)
        self.turns, self.forgotten = turns[:-1], self.forgotten + forgotten
        return self.steps(turns, deltas)

    def steps(self, turns: list[Message], deltas: Iterator[Delta]) -> Generator[Delta, None, None]:
        """Pass an answer on and enter it into the history."""
        answer = ""
        try:
            for delta in deltas:
                answer += delta.text
                yield delta
        finally:
            if answer:
                self.turns = [*turns, {"role": "assistant", "content": answer}]

    def fit(self, turns: list[Message]) -> tuple[list[Message], int, list[int]]:
        """Drop the oldest turns as needed; return the rest, how many were dropped, and tokens."""
        room = min(self.sampling.max_tokens, self.model.context_length // 2)
        starts = [index for index, turn in enumerate(turns) if turn["role"] == "user"]
        for start in starts:
            tokens = chat_tokens(self.model.tokenizer, self.system_message() + turns[start:])
            if len(tokens) + room <= self.model.context_length:
                break
        return turns[start:], starts.index(start), tokens
