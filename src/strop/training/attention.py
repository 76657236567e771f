"""Attention over laid-out groups, as one more attention implementation of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from strop.errors import StropError
from strop.training.sequences import Layout

NAME = "strop_groups"  #: for `set_attn_implementation`


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
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    # A prompt with its first completion is an ordinary causal sequence.
    sizes = [
        size
        for group in layout.groups
        for size in (
            len(group.prompt) + len(group.completions[0]),
            *map(len, group.completions[1:]),
        )
    ]
    queries, keys, values = (one.split(sizes, dim=2) for one in (query, key, value))
    parts = []
    at = 0
    for group in layout.groups:
        prompt = len(group.prompt)
        first = attend(layout, queries[at], keys[at], values[at], scaling, sliding_window)
        parts.append(first)
        if len(group.completions) > 1:
            split = [prompt, len(group.completions[0])]
            prefix = keys[at].split(split, dim=2)[0], values[at].split(split, dim=2)[0]
        for index in range(at + 1, at + len(group.completions)):
            key = torch.cat((prefix[0], keys[index]), dim=2)
            value = torch.cat((prefix[1], values[index]), dim=2)
            parts.append(attend(layout, queries[index], key, value, scaling, sliding_window))
        at += len(group.completions)
    return torch.cat(parts, dim=2).transpose(1, 2), None


def attend(
    layout: Layout,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attend causally; the last query belongs to the last key."""
    rows, columns = query.shape[2], key.shape[2]
    window = window if window and window < columns else None
    if rows == columns and window is None:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    place = (rows, columns, window)
    if place not in layout.masks:
        ago = torch.arange(columns - rows, columns)[:, None] - torch.arange(columns)[None]
        seen = (ago >= 0) & (ago < (window or columns))
        mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
        layout.masks[place] = mask.to(query.device, query.dtype)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=layout.masks[place], scale=scaling
    )


AttentionInterface.register(NAME, grouped_attention)
