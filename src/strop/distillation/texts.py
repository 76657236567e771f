"""What a model writes for some prompts, and its states while it does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from strop.console import progress
from strop.decoding import Sampling, complete_many
from strop.errors import StropError
from strop.models.interface import States
from strop.models.native_backend import NativeModel

WIDTH = 16  #: texts that are written at once
MOST = 256  #: tokens of a text
#: Half as the model chats by default, half greedily or freely, as users may ask for
TEMPERATURES = (0.5, 0.0, 0.5, 0.8)


@dataclass(frozen=True)
class Texts:
    """Texts end to end: tokens, the states after each, and where each text begins and ends.

    A text begins with the last token of its prompt.
    """

    tokens: NDArray[np.int32]  #: (n,)
    states: NDArray[np.float16]  #: (n, hidden)
    spans: NDArray[np.int64]  #: (texts, 2)

    def starts(self, steps: int) -> NDArray[np.int64]:
        """Return the positions that so many tokens of the same text follow."""
        ranges = [np.arange(begin, end - steps) for begin, end in self.spans]
        return np.concatenate(ranges) if ranges else np.zeros(0, np.int64)


def write_texts(
    model: NativeModel, prompts: Sequence[Sequence[int]], wanted: int, seed: int, seconds: float
) -> Texts:
    """Let the model answer prompts, again and again with other seeds, until it wrote enough tokens.

    Or until so many seconds have gone. Raises StropError if nothing was written in them.
    """
    begin = time.monotonic()
    tokens: list[NDArray[np.int32]] = []
    states: list[NDArray[np.float16]] = []
    spans: list[tuple[int, int]] = []
    written = total = 0
    with progress("writing texts", wanted, "tokens") as advance:
        for prompt, answer, seen in answers(model, prompts, seed):
            # The last token of an answer was chosen, not read: it has no state.
            tokens.append(np.array([prompt[-1], *answer[:-1]], np.int32))
            states.append(seen.astype(np.float16))
            spans.append((total, total + len(tokens[-1])))
            total += len(tokens[-1])
            advance(min(len(answer), wanted - written))
            written += len(answer)
            if written >= wanted or time.monotonic() - begin > seconds:
                break
    if not written:
        raise StropError(f"{model.name} wrote nothing to learn from: give other prompts")
    return Texts(np.concatenate(tokens), np.concatenate(states), np.array(spans))


def answers(
    model: NativeModel, prompts: Sequence[Sequence[int]], seed: int
) -> Iterator[tuple[Sequence[int], Sequence[int], States]]:
    """Yield prompts, what the model answers, and the states from which it chose the tokens.

    Without end; each round at other temperatures.
    """
    jobs = (
        (
            prompts[index % len(prompts)],
            Sampling(
                temperature=TEMPERATURES[(index + index // len(prompts)) % len(TEMPERATURES)],
                max_tokens=MOST,
                seed=seed + index,
            ),
        )
        for index in count()
    )
    while True:
        some = list(islice(jobs, 8 * WIDTH))
        asked = [prompt for prompt, _ in some]
        samplings = [sampling for _, sampling in some]
        for number, completion in complete_many(
            model, asked, samplings, width=WIDTH, keep_states=True
        ):
            if completion.states is not None:
                yield asked[number], completion.tokens, completion.states
