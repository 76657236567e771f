"""The draft head in PyTorch, and how it learns to imitate a model."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from strop.console import progress
from strop.data import atomic_path
from strop.distillation.texts import Texts, unreadable
from strop.errors import StropError
from strop.models.draft_head import MATRICES, NORMS

STEPS = 3  #: guesses that a head learns to make one after another
DECAY = 0.7  #: weight of each guess after the first, in times of the one before
STATE_WEIGHT = 0.1  #: of the distance of states, beside the cross-entropy of what they say
BATCH = 256  #: positions
LEARNING_RATE = 1e-3
WARMUP = 0.05  #: of the time
KEEP_SECONDS = 60.0  #: between two times that training is kept


class Head(nn.Module):  # type: ignore[misc]
    """See `strop.models.draft_head` for the arithmetic."""

    def __init__(
        self, rows: torch.Tensor, final_norm: torch.Tensor, inner: int, epsilon: float
    ) -> None:
        """Start from the model's own head: its rows of the tokens that can be guessed."""
        super().__init__()
        hidden = rows.shape[1]
        self.epsilon = epsilon
        self.fuse = nn.Parameter(torch.randn(hidden, 2 * hidden) * 0.02)
        self.gate = nn.Parameter(torch.randn(inner, hidden) * hidden**-0.5)
        self.up = nn.Parameter(torch.randn(inner, hidden) * hidden**-0.5)
        self.down = nn.Parameter(torch.zeros(hidden, inner))
        self.head = nn.Parameter(rows.clone())
        for name in ("token_norm", "state_norm", "mlp_norm"):
            setattr(self, name, nn.Parameter(torch.ones(hidden)))
        self.final_norm = nn.Parameter(final_norm.clone())

    def forward(
        self, embedding: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and next state for rows of embeddings and states."""
        parts = self.norm(embedding, self.token_norm), self.norm(state, self.state_norm)
        y = state + functional.linear(torch.cat(parts, -1), self.fuse)
        inner = self.norm(y, self.mlp_norm)
        gated = functional.silu(functional.linear(inner, self.gate)) * functional.linear(
            inner, self.up
        )
        after = self.norm(y + functional.linear(gated, self.down), self.final_norm)
        return functional.linear(after, self.head), after

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMSNorm."""
        return functional.rms_norm(x, (x.shape[-1],), weight, self.epsilon)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return all weights as arrays."""
        state = self.state_dict()
        return {name: state[name].numpy() for name in (*MATRICES, *NORMS)}


@dataclass(frozen=True)
class Teacher:
    """What a head imitates: the model's embeddings and head, in float32."""

    embedding: torch.Tensor  #: (vocabulary, hidden)
    rows: torch.Tensor  #: (outputs, hidden) of its head


def batches(starts: NDArray[np.int64], seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield positions in random order, epoch after epoch."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(starts)
        for begin in range(0, len(order) - BATCH + 1, BATCH):
            yield order[begin : begin + BATCH]


def rows_at(array: NDArray[np.generic], positions: NDArray[np.int64]) -> torch.Tensor:
    """Gather rows as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(array[positions]))


def unrolled(
    head: Head, teacher: Teacher, texts: Texts, positions: NDArray[np.int64]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Guess after each position, and go on from the guess's state, `STEPS` times.

    Yields for each logits (batch, outputs), the next state, and the model's own state there.
    """
    state = rows_at(texts.states, positions).float()
    for step in range(1, STEPS + 1):
        tokens = rows_at(texts.tokens, positions + step).long()
        logits, state = head(teacher.embedding[tokens], state)
        yield logits, state, rows_at(texts.states, positions + step).float()


def loss_of(
    head: Head, teacher: Teacher, texts: Texts, positions: NDArray[np.int64]
) -> torch.Tensor:
    """Cross-entropy with what the model says, over the tokens that can be guessed, and distance."""
    total = torch.zeros(())
    for step, (logits, state, true) in enumerate(unrolled(head, teacher, texts, positions)):
        wanted = functional.linear(true, teacher.rows).softmax(-1)
        entropy = functional.cross_entropy(logits, wanted)
        distance = functional.smooth_l1_loss(state, true)
        total = total + DECAY**step * (entropy + STATE_WEIGHT * distance)
    return total


def train(
    head: Head,
    teacher: Teacher,
    texts: Texts,
    minutes: float,
    seed: int,
    keep: Path | None = None,
) -> Iterator[float]:
    """Train for so many minutes; yield the part of the time that has gone, after each batch.

    Every KEEP_SECONDS all is kept in the file `keep`, from which a later call goes on.
    """
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, betas=(0.9, 0.95))
    starts = texts.starts(STEPS)
    if len(starts) < BATCH:
        raise StropError(f"only {len(starts)} tokens to learn from, {BATCH} are needed: give more")
    done, spent = 0, 0.0
    if keep and keep.exists():
        done, spent = restored(keep, head, optimizer)
    seconds = 60 * minutes
    begin = saved = time.monotonic()
    for count, positions in enumerate(islice(batches(starts, seed), done, None), start=done + 1):
        now = time.monotonic()
        part = (spent + now - begin) / seconds
        if part >= 1:
            return
        scale = min(1.0, part / WARMUP) * (0.05 + 0.95 * (1 + math.cos(math.pi * part)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * max(scale, 1e-3)
        loss = loss_of(head, teacher, texts, positions)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        if keep and now - saved > KEEP_SECONDS:
            state = {"head": head.state_dict(), "optimizer": optimizer.state_dict()}
            kept = BytesIO()  # torch itself reports a full disk as a RuntimeError
            torch.save(state | {"batches": count, "seconds": part * seconds}, kept)
            with atomic_path(keep) as partial:
                partial.write_bytes(kept.getbuffer())
            saved = now
        yield part


def restored(keep: Path, head: Head, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Take up training as it was kept; return how many batches and seconds it had taken."""
    try:
        kept = torch.load(keep, weights_only=True)
        head.load_state_dict(kept["head"])
        optimizer.load_state_dict(kept["optimizer"])
        return operator.index(kept["batches"]), float(kept["seconds"])
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive raises whatever its parser stumbles over
        raise unreadable(keep, error) from error


def right_guesses(
    head: Head,
    teacher: Teacher,
    full: torch.Tensor,
    ids: NDArray[np.int64],
    texts: Texts,
    most: int,
) -> list[tuple[int, int]]:
    """Count how often each guess is what the model itself finds likeliest, given the ones before.

    On at most `most` positions; `full` is the model's whole head. Returns for each step how many
    guesses were right, of how many: those of the second step where the first was right, and so on.
    The tokens between are those of the text.
    """
    starts = texts.starts(STEPS)
    chosen = np.random.default_rng(0).permutation(starts)[:most]
    right, reached = [0] * STEPS, [0] * STEPS
    named = torch.from_numpy(ids)
    with torch.no_grad(), progress("measuring", len(chosen), "positions") as advance:
        for begin in range(0, len(chosen), BATCH):
            positions = chosen[begin : begin + BATCH]
            alive = torch.ones(len(positions), dtype=torch.bool)
            for step, (logits, _, true) in enumerate(unrolled(head, teacher, texts, positions)):
                says = functional.linear(true, full).argmax(-1)
                hits = named[logits.argmax(-1)] == says
                reached[step] += int(alive.sum())
                right[step] += int((alive & hits).sum())
                alive &= hits
            advance(len(positions))
    return list(zip(right, reached, strict=True))
