"""From rows of preferences to what the training loop makes small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from strop.training.loop import Objective, Row
from strop.training.scoring import completion_logps, token_logps
from strop.training.sequences import Group, Tokens, lay_out
from strop.tuning.losses import Loss, Scores, Settings


@dataclass(frozen=True)
class Candidates:
    """The candidates for one prompt, which of them are better than others, and the target."""

    prompt: Tokens
    candidates: tuple[Tokens, ...]  #: best first, as far as there is an order of all
    target: Tokens  #: may be one of the candidates
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)  #: (better, worse), for losses of pairs
    values: tuple[float, ...] | None = None  #: how good each candidate is
    reference: tuple[float, ...] | None = None  #: their log-probabilities before tuning
    other: Tokens = ()  #: an answer to another prompt
    other_reference: float = 0.0  #: its log-probability here, before tuning
    with_target: bool = True  #: whether the loss needs the target

    @property
    def group(self) -> Group:
        """Return what has to be computed: a target that is a candidate is computed once."""
        extra = self.with_target and self.target not in self.candidates
        return Group(self.prompt, (*self.candidates, self.target) if extra else self.candidates)

    @property
    def target_place(self) -> int:
        """Return which completion of the group is the target."""
        if not self.with_target or self.target not in self.candidates:
            return len(self.group.completions) - 1
        return self.candidates.index(self.target)


def preference_objective(loss: Loss, settings: Settings) -> Objective:
    """Return the objective for a loss; its items are `Candidates`."""

    def compute(
        network: Any, items: Sequence[Candidates], shared: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[Row]]:
        layout = lay_out([item.group for item in items], network.device)
        logps = completion_logps(token_logps(network, layout), layout)
        mean = None if shared is None else shared[0] / shared[1]
        total, rows = torch.zeros((), device=logps.device), []
        sizes = [len(item.group.completions) for item in items]
        for item, own, lengths in zip(
            items, logps.split(sizes), layout.lengths.split(sizes), strict=True
        ):
            for scores in scores_of(item, own, lengths, mean, loss):
                value = loss.formula(scores, settings)
                total = total + value
                rows.append({"loss": float(value.detach()), **facts(scores, loss)})
                if loss.slack:
                    open_hinges = loss.slack(scores, settings).detach() > 0
                    rows[-1]["active"] = float(open_hinges.float().mean())
        return total, rows

    def mismatched(network: Any, items: Sequence[Candidates]) -> torch.Tensor:
        layout = lay_out([Group(item.prompt, (item.other,)) for item in items], network.device)
        logps = completion_logps(token_logps(network, layout), layout)
        before = sum(item.other_reference for item in items)
        return torch.stack([logps.sum() - before, logps.new_tensor(float(len(items)))])

    def weight(item: Candidates) -> float:
        if loss.per_token:
            return float(len(item.target))
        return 1.0 if loss.whole_list else float(len(item.pairs))

    return Objective(loss=compute, weight=weight, prepare=mismatched if loss.needs_other else None)


def scores_of(
    item: Candidates,
    logps: torch.Tensor,
    lengths: torch.Tensor,
    shared: torch.Tensor | None,
    loss: Loss,
) -> Iterator[Scores]:
    """Yield what a loss is a function of, for each pair, or for the list of all candidates."""
    every = tuple(range(len(item.candidates)))

    def chosen(values: tuple[float, ...] | None, places: Sequence[int]) -> torch.Tensor | None:
        if values is None:
            return None
        return torch.tensor([values[place] for place in places], device=logps.device)

    for places in (every,) if loss.whole_list or loss.per_token else item.pairs:
        rows = list(places)
        yield Scores(
            logps=logps[rows],
            lengths=lengths[rows],
            reference=chosen(item.reference, places),
            values=chosen(item.values, places),
            target=logps[item.target_place],
            shared=shared,
        )


def facts(scores: Scores, loss: Loss) -> Row:
    """Return what the reading of a run needs to know of one pair, or list."""
    logps = scores.logps.detach()
    row = {"chosen": float(logps[0]), "chosen_tokens": float(scores.lengths[0])}
    if loss.uses_target:
        row["target"] = float(scores.target.detach())
    if len(logps) > 1:
        row |= {
            "rejected": float(logps[-1]),
            "rejected_tokens": float(scores.lengths[-1]),
            "margin": float(logps[0] - logps[-1]),
            "right": float(logps[0] > logps[-1]),
        }
    if scores.reference is not None:
        row["chosen_ratio"] = float(logps[0] - scores.reference[0])
        row["rejected_ratio"] = float(logps[-1] - scores.reference[-1])
    return row
