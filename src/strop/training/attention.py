"""Attention over laid-out groups, as one more attention implementation of transformers.

Forward and backward are written out in matrix products over blocks of queries. The scores are found
again for the backward pass, so that none are kept; keys and values of a prompt are neither repeated
for the heads that share them nor for its completions. (Recomputation: Dao et al. 2022, arXiv
2205.14135, section 3.1.) On processors with bfloat16 products that takes a third of the time of
PyTorch's own attention, in float32 about as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AttentionInterface

from strop.errors import StropError
from strop.training.sequences import Group, Layout

NAME = "strop_groups"  #: for `set_attn_implementation`
BLOCK = 128  #: queries whose scores exist at a time


def grouped_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    layout: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Let every completion attend to its prompt and to itself.

    `query` is (1, heads, n, head_dim), `key` and `value` have as many or fewer heads. Returns
    (1, n, heads, head_dim). There is no dropout: scores that are compared must be of one network.
    """
    if softcap is not None:
        raise StropError("models with capped attention scores (softcap) cannot be trained")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    found = Grouped.apply(query[0] * scale, key[0], value[0], layout.groups, sliding_window)
    return found[None], None


class Grouped(torch.autograd.Function):  # type: ignore[misc]
    """softmax(Q K^T) V, in which every completion sees its prompt and itself."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        groups: Sequence[Group],
        window: int | None,
    ) -> torch.Tensor:
        """Return (n, heads, head_dim) for (heads, n, head_dim); values may have another width."""
        found = query.new_empty(query.shape[1], query.shape[0], value.shape[2])
        for prompt, own in parts(groups):
            keys, values = seen(key, prompt, own), seen(value, prompt, own)
            for rows, columns in blocks(prompt, own, window):
                weights = attention_weights(
                    stacked(query, rows, key), keys[:, columns], rows, window
                )
                mixed = torch.bmm(weights, values[:, columns])
                found[rows] = mixed.view(query.shape[0], -1, value.shape[2]).transpose(0, 1)
        ctx.save_for_backward(query, key, value, found)
        ctx.groups, ctx.window = groups, window
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of queries, keys and values.

        With P = softmax(S) and O = P V, the gradient of S is P (dP - rowsum(dO O)), where
        dP = dO V^T. (Dao et al., appendix B.2.)
        """
        query, key, value, found = ctx.saved_tensors
        [g] = gradients
        shared = (g.float() * found).sum(-1).T[:, :, None]  # it is subtracted from what is near it
        g = g.transpose(0, 1)
        query_g = torch.empty_like(query)
        key_g, value_g = torch.zeros_like(key), torch.zeros_like(value)
        for prompt, own in parts(ctx.groups):
            keys, values = seen(key, prompt, own), seen(value, prompt, own)
            keys_g, values_g = torch.zeros_like(keys), torch.zeros_like(values)
            for rows, columns in blocks(prompt, own, ctx.window):
                asked, pull = stacked(query, rows, key), stacked(g, rows, key)
                weights = attention_weights(asked, keys[:, columns], rows, ctx.window)
                values_g[:, columns].baddbmm_(weights.transpose(1, 2), pull)
                scores_g = torch.bmm(pull, values[:, columns].transpose(1, 2))
                scores_g.sub_(stacked(shared, rows, key)).mul_(weights)
                keys_g[:, columns].baddbmm_(scores_g.transpose(1, 2), asked)
                asked_g = torch.bmm(scores_g, keys[:, columns])
                query_g[:, rows] = asked_g.view(query.shape[0], -1, query.shape[2])
            for whole, part in ((key_g, keys_g), (value_g, values_g)):
                shares = part.split([length(prompt), length(own)], dim=1)
                whole[:, prompt] += shares[0]
                whole[:, own] += shares[1]
        return query_g, key_g, value_g, None, None


def parts(groups: Sequence[Group]) -> Iterator[tuple[slice, slice]]:
    """Return the rows of a prompt and those of a completion that come after them.

    A prompt with its first completion is an ordinary causal sequence, after nothing.
    """
    at = 0
    for group in groups:
        prompt = slice(at, at + len(group.prompt))
        at = prompt.stop + len(group.completions[0])
        yield slice(prompt.start, prompt.start), slice(prompt.start, at)
        for completion in group.completions[1:]:
            yield prompt, slice(at, at + len(completion))
            at += len(completion)


def blocks(prompt: slice, own: slice, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Return rows of some queries, and the keys that one of them sees, counted from the prompt."""
    before = length(prompt)
    for start in range(own.start, own.stop, BLOCK):
        stop = min(start + BLOCK, own.stop)
        first = before + start - own.start + 1 - window if window else 0
        yield slice(start, stop), slice(max(first, 0), before + stop - own.start)


def length(rows: slice) -> int:
    """Return the number of rows."""
    return int(rows.stop - rows.start)


def seen(every: torch.Tensor, prompt: slice, own: slice) -> torch.Tensor:
    """Return the keys or values of a prompt and of what follows it."""
    if not length(prompt):
        return every[:, own]
    return torch.cat((every[:, prompt], every[:, own]), dim=1)


def stacked(every: torch.Tensor, rows: slice, key: torch.Tensor) -> torch.Tensor:
    """Put rows of the heads that share a key below each other: (key heads, rows of each, ...)."""
    return every[:, rows].reshape(key.shape[0], -1, every.shape[2])


def attention_weights(
    query: torch.Tensor, keys: torch.Tensor, rows: slice, window: int | None
) -> torch.Tensor:
    """Return the weights of keys for stacked queries, the last of which belongs to the last key."""
    count, columns = length(rows), keys.shape[1]
    scores = torch.bmm(query, keys.transpose(1, 2))
    by_head = scores.view(-1, count, columns)
    future = torch.full((count, count), -math.inf, dtype=query.dtype, device=query.device)
    by_head[:, :, columns - count :].add_(future.triu_(1))
    if window and columns > window:
        hidden = torch.ones((count, columns), dtype=torch.bool, device=query.device)
        by_head.masked_fill_(hidden.tril_(columns - count - window), -math.inf)
    return scores.softmax(-1)


AttentionInterface.register(NAME, grouped_attention)
