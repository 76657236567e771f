"""What a model writes for some prompts, and its states while it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strop.console import progress
from strop.data import atomic_path
from strop.decoding import Sampling, complete_many
from strop.errors import StropError
from strop.models.native_backend import NativeModel

WIDTH = 16  #: texts that are written at once
GROUP = 8 * WIDTH  #: texts that are kept together
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
    seconds: float  #: that it took to write them

    def starts(self, steps: int) -> NDArray[np.int64]:
        """Return the positions that so many tokens of the same text follow."""
        ranges = [np.arange(begin, end - steps) for begin, end in self.spans]
        return np.concatenate(ranges) if ranges else np.zeros(0, np.int64)


def write_texts(
    model: NativeModel,
    prompts: Sequence[Sequence[int]],
    wanted: int,
    seed: int,
    seconds: float,
    folder: Path,
) -> Texts:
    """Let the model answer prompts, again and again with other seeds, until it wrote enough tokens.

    Or until so many seconds have gone. Texts are kept in `folder`, from which a later call with the
    same arguments goes on. Raises StropError if nothing was written.
    """
    groups: list[Texts] = []
    written, spent = 0, 0.0
    with progress("writing texts", wanted, "tokens") as advance:
        while written < wanted and spent < seconds:
            number = len(groups)
            path = folder / f"{number:05}.npz"
            if path.exists():
                group = read_group(path)
                advance(min(len(group.tokens), wanted - written))
            else:
                left = wanted - written, seconds - spent
                group = write_group(model, prompts, number, seed, *left, advance)
                with atomic_path(path) as partial, partial.open("wb") as stream:
                    np.savez(stream, **vars(group))
            groups.append(group)
            written += len(group.tokens)
            spent += group.seconds
    return joined(groups)


def write_group(
    model: NativeModel,
    prompts: Sequence[Sequence[int]],
    number: int,
    seed: int,
    wanted: int,
    seconds: float,
    advance: Callable[[float], None],
) -> Texts:
    """Let the model answer the prompts of one group; less if that is enough, or time is up."""
    begin = time.monotonic()
    indices = range(number * GROUP, (number + 1) * GROUP)
    asked = [prompts[index % len(prompts)] for index in indices]
    # Each time that a prompt comes again it is answered at another temperature.
    samplings = [
        Sampling(
            temperature=TEMPERATURES[(index + index // len(prompts)) % len(TEMPERATURES)],
            max_tokens=MOST,
            seed=seed + index,
        )
        for index in indices
    ]
    tokens, states, spans, total = [], [], [], 0
    for index, answer in complete_many(model, asked, samplings, width=WIDTH, keep_states=True):
        if answer.states is None:
            continue  # it wrote nothing
        # The last token of an answer was chosen, not read: it has no state.
        tokens.append(np.array([asked[index][-1], *answer.tokens[:-1]], np.int32))
        states.append(answer.states.astype(np.float16))
        length = len(tokens[-1])
        spans.append((total, total + length))
        advance(min(length, wanted - total))
        total += length
        if total >= wanted or time.monotonic() - begin > seconds:
            break
    if not tokens:
        raise StropError(f"{model.name} wrote nothing to learn from: give other prompts")
    taken = time.monotonic() - begin
    return Texts(np.concatenate(tokens), np.concatenate(states), np.array(spans), taken)


def read_group(path: Path) -> Texts:
    """Read what `write_texts` kept."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = kept["tokens"], kept["states"], kept["spans"]
            return Texts(*arrays, float(kept["seconds"]))
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive raises whatever its parser stumbles over
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> StropError:
    """Build the error for a file of the work that could not be read."""
    if isinstance(error, OSError) and error.errno:
        return StropError(f"cannot read {path}: {error.strerror}")
    return StropError(f"{path} is damaged ({error!r:.200}): remove it")


def joined(groups: Sequence[Texts]) -> Texts:
    """Put texts end to end."""
    starts = np.cumsum([0, *(len(group.tokens) for group in groups[:-1])])
    return Texts(
        np.concatenate([group.tokens for group in groups]),
        np.concatenate([group.states for group in groups]),
        np.concatenate([group.spans + start for group, start in zip(groups, starts, strict=True)]),
        sum(group.seconds for group in groups),
    )
