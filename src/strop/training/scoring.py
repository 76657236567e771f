"""Log-probabilities of completions, with the head applied to their tokens only, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from strop.training.memory import ROWS
from strop.training.sequences import Layout


class FrozenHead(torch.autograd.Function):  # type: ignore[misc]
    """Log-probabilities of tokens by a head that is not trained.

    With p = softmax(W h) the gradient of log p[t] by h is W[t] - p W. It is found together with the
    log-probability, while the logits are there; so none have to be kept, or computed again.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """Return (n,) log-probabilities in float32 for states (n, hidden)."""
        wanted = ctx.needs_input_grad[0]
        found, slopes = [], []
        for rows, ids in zip(states.split(ROWS), targets.split(ROWS), strict=True):
            logps = linear(rows, weight).float().log_softmax(-1)
            found.append(logps.gather(1, ids[:, None])[:, 0])
            if wanted:
                shares = logps.exp_().to(weight.dtype)
                slopes.append(torch.addmm(weight[ids], shares, weight, alpha=-1))
        if wanted:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale each row's slope."""
        [slopes], [g] = ctx.saved_tensors, gradients
        return slopes * g[:, None].to(slopes.dtype), None, None


def token_logps(network: Any, layout: Layout) -> torch.Tensor:
    """Return the log-probability of each token of the completions, (scored,) in float32.

    The network's attention must be `strop.training.attention`.
    """
    states = last_states(network, layout).index_select(0, layout.predictors)
    return head_logps(network, states, layout.targets)


def head_logps(network: Any, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of tokens (n,) from what the head multiplies, (n, hidden)."""
    head = network.get_output_embeddings()
    if not any(one.requires_grad for one in head.parameters()):
        return FrozenHead.apply(states, targets, head_weight(network).to(states.dtype))
    parts = [
        checkpoint(plain_logps, head, rows, ids, use_reentrant=False)
        for rows, ids in zip(states.split(ROWS), targets.split(ROWS), strict=True)
    ]
    return torch.cat(parts)


def last_states(network: Any, layout: Layout) -> torch.Tensor:
    """Return what the head multiplies, (n, hidden), for all tokens of the layout."""
    output = network.base_model(
        input_ids=layout.tokens, position_ids=layout.positions, use_cache=False, layout=layout
    )
    states: torch.Tensor = output.last_hidden_state[0]
    return states


def plain_logps(
    head: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the log-probabilities of tokens as PyTorch finds them."""
    scores = head(states).float().log_softmax(-1)
    return scores.gather(1, targets[:, None])[:, 0]


def head_weight(network: Any) -> torch.Tensor:
    """Return the head's matrix, dequantized if it is packed."""
    head = plain_head(network)
    return head.rows() if hasattr(head, "rows") else head.weight


def plain_head(network: Any) -> Any:
    """Return the head, or the packed embedding that it is tied to."""
    head = network.get_output_embeddings()
    return head.embedding[0] if hasattr(head, "embedding") else head


def completion_logps(logps: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Add up the tokens of each completion: (completions,)."""
    total = torch.zeros(len(layout.lengths), dtype=logps.dtype, device=logps.device)
    return total.index_add(0, layout.owners, logps)
