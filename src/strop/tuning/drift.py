"""How far a network has moved from where it started, on answers that it is not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import linear

from strop.stats import Interval, bootstrap
from strop.training.memory import ROWS
from strop.training.scoring import head_weight, last_states
from strop.training.sequences import Group, filled, lay_out


class Start:
    """The last states of a network before it is trained."""

    def __init__(
        self, network: Any, keys: Sequence[str], groups: Sequence[Group], room: int
    ) -> None:
        """Compute them; `keys` are those of the groups' prompts. A head that is trained is copied.

        One that is not is asked for again: of a packed network it is a matrix of its own.
        """
        known = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        self.prompts = torch.tensor([known[key] for key in keys])
        self.groups, self.room = groups, room
        self.states = list(states_of(network, groups, room))
        head = head_weight(network)
        self.head = head.detach().clone() if head.requires_grad else None

    def divergence(self, network: Any) -> Interval:
        """Return KL(start || now) in nats per token, with an interval over prompts."""
        now = states_of(network, self.groups, self.room)
        sums = torch.zeros(int(self.prompts.max()) + 1, 2, dtype=torch.float64)
        head = head_weight(network).detach()
        first = head if self.head is None else self.head
        for (part, before, owners), (_, after, _) in zip(self.states, now, strict=True):
            values = divergences(before, first, after, head).double().cpu()
            places = self.prompts[torch.tensor(part)[owners]]
            sums[:, 0].index_add_(0, places, values)
            sums[:, 1].index_add_(0, places, torch.ones_like(values))
        return bootstrap(sums.numpy(), lambda rows: rows[..., 0].sum(1) / rows[..., 1].sum(1))


def states_of(
    network: Any, groups: Sequence[Group], room: int
) -> list[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Return, for lots of groups: which, the states behind their completions, and whose each is."""
    found = []
    for part in filled(groups, room):
        layout = lay_out([groups[index] for index in part], network.device)
        with torch.no_grad():
            states = last_states(network, layout).index_select(0, layout.predictors)
        counts = [sum(map(len, groups[index].completions)) for index in part]
        owners = torch.arange(len(part)).repeat_interleave(torch.tensor(counts))
        found.append((part, states, owners))
    return found


def divergences(
    before: torch.Tensor, head: torch.Tensor, after: torch.Tensor, head_after: torch.Tensor
) -> torch.Tensor:
    """Return the KL divergence of the next-token distributions for each row of states."""
    found = []
    for one, other in zip(before.split(ROWS), after.split(ROWS), strict=True):
        p = linear(one, head.to(one.dtype)).float().log_softmax(-1)
        q = linear(other, head_after.to(other.dtype)).float().log_softmax(-1)
        found.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(found)
