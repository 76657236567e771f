"""A ranker: a language model that says which of two answers is better, or how good one is.

Pairwise it reads prompt, answer A and answer B, and says A or B; both orders are read, and their
margins averaged, so that the place of an answer says nothing. Pointwise it reads prompt and answer,
and says good or bad. What it says is read as a probability. (SLiC-HF, Zhao et al. 2023, section
2.2; swapped orders: RSO, Liu et al. 2023, section 3.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from strop.console import say
from strop.data import Prompt, read_json, sha256_json, write_json
from strop.decoding.cache import common_prefix
from strop.errors import StropError, unknown_name
from strop.training.fitting import fastest_type
from strop.training.loop import Objective, Row
from strop.training.memory import ROOM
from strop.training.network import DTYPES, NetworkConfig, Source, open_source, open_trainee
from strop.training.scoring import last_states, plain_head
from strop.training.sequences import Group, Tokens, filled, lay_out
from strop.tuning.known import Numbers, looked_up
from strop.tuning.origins import RANKER

TYPE, MARGINS = "dtype.json", "margins.sqlite"  #: in the work of a stage that reads


@dataclass(frozen=True)
class Kind:
    """How a ranker asks."""

    answers: tuple[str, ...]  #: comes before each answer
    after: str  #: all answers
    labels: tuple[str, str]  #: what the model says: for the first or a good one, and the other


KINDS = {
    "pairwise": Kind(("\n\nAnswer A:", "\n\nAnswer B:"), "\n\nBetter answer:", (" A", " B")),
    "pointwise": Kind(("\n\nAnswer:",), "\n\nThis answer is", (" good", " bad")),
}


@dataclass(frozen=True)
class RankerConfig:
    """What a ranker reads."""

    kind: str = "pairwise"  #: or pointwise
    prompt_tokens: int = 256  #: the last so many tokens of a prompt are read
    answer_tokens: int = 256  #: the first so many tokens of an answer are read

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if self.kind not in KINDS:
            raise unknown_name("kind of ranker", self.kind, KINDS)
        for name in ("prompt_tokens", "answer_tokens"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise StropError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Compared:
    """A prompt with what is asked about its answers: one completion for each margin."""

    group: Group
    shorter: float = 0.5  #: 1 if the better answer is the shorter one, 0.5 if it is as long, else 0


class Reader:
    """What turns texts into questions, and states into margins."""

    def __init__(self, source: Source, config: RankerConfig) -> None:
        """Look up the labels. Raises StropError for more tokens than the context holds."""
        self.config, self.kind = config, KINDS[config.kind]
        self.encode = source.tokenizer.encode
        first, second = (self.encode(label, special=False) for label in self.kind.labels)
        # What both begin with, such as a space that is a token of its own, belongs to the question.
        common = common_prefix(first, second)
        self.after = (*self.encode(self.kind.after, special=False), *first[:common])
        self.labels = first[common], second[common]
        most = self.most_tokens()
        if most > source.context_length:
            raise StropError(
                f"the ranker would read up to {most} tokens, but the context of the model holds "
                f"{source.context_length}: let it read fewer of prompts or answers"
            )

    def most_tokens(self) -> int:
        """Return the most tokens that it reads at a time."""
        markers = len(self.question([() for _ in self.kind.answers]))
        answers = len(self.kind.answers) * self.config.answer_tokens
        return self.config.prompt_tokens + answers + markers

    def compared(self, prompt: Prompt, answers: Sequence[str]) -> Compared:
        """Ask about two answers, in both orders; or about each of some, where one is read alone."""
        context = self.encode(context_text(prompt))[-self.config.prompt_tokens :]
        cut = [
            self.encode(" " + text.strip(), special=False)[: self.config.answer_tokens]
            for text in answers
        ]
        orders = [cut, cut[::-1]] if self.config.kind == "pairwise" else [[one] for one in cut]
        completions = tuple(self.question(order) for order in orders)
        return Compared(Group(tuple(context), completions))

    def question(self, answers: Sequence[Sequence[int]]) -> Tokens:
        """Return the tokens after the prompt, up to where the label comes."""
        parts: list[int] = []
        for before, answer in zip(self.kind.answers, answers, strict=True):
            parts += [*self.encode(before, special=False), *answer]
        return (*parts, *self.after)

    def margins(self, network: Any, items: Sequence[Compared]) -> torch.Tensor:
        """Return the difference of the labels' logits after each completion."""
        layout = lay_out([item.group for item in items], network.device)
        states = last_states(network, layout).index_select(0, layout.ends)
        first, second = label_rows(network, self.labels)
        margins: torch.Tensor = states.float() @ (first.float() - second.float())
        return margins


def label_rows(network: Any, labels: Sequence[int]) -> torch.Tensor:
    """Return the head's rows of two tokens."""
    head = plain_head(network)
    ids = torch.tensor(labels)
    return head.rows(ids) if hasattr(head, "rows") else head.weight[ids]


def context_text(prompt: Prompt) -> str:
    """Write a prompt as text."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{one['role'].capitalize()}: {one['content']}" for one in prompt)


def ranker_objective(reader: Reader) -> Objective:
    """Return the objective: cross-entropy of the right labels; the better answer comes first."""

    def compute(
        network: Any, items: Sequence[Compared], shared: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[Row]]:
        first, second = reader.margins(network, items).view(-1, 2).T
        losses = -logsigmoid(first) - logsigmoid(-second)
        margins = ((first - second) / 2).tolist()
        rows = [
            {
                "margin": margin,
                "right": float(margin > 0) + 0.5 * (margin == 0),
                "shorter": item.shorter,
            }
            for item, margin in zip(items, margins, strict=True)
        ]
        return losses.sum(), rows

    return Objective(loss=compute)


class Ranker:
    """A ranker that was trained."""

    def __init__(self, directory: Path, work: Path | None = None) -> None:
        """Load it; what it reads is kept in `work`, so that another goes on with it in its type.

        Raises StropError for a directory that holds no ranker.
        """
        found = read_json(directory / RANKER)
        try:
            self.config = RankerConfig(**found)
        except TypeError as error:
            raise StropError(f"{directory / RANKER}: not of a ranker") from error
        source = open_source(str(directory))
        self.dtype = type_to_read(source.directory, work)
        trainee = open_trainee(source, NetworkConfig(dtype=self.dtype))
        self.network = trainee.network
        self.reader = Reader(trainee.source, self.config)
        self.kept = work / MARGINS if work else None
        say(f"{directory}: reads in {self.dtype}")

    def prefer(self, rows: Sequence[tuple[Prompt, str, str]]) -> list[float]:
        """Return the probability that the first answer is better, for each (prompt, a, b)."""
        items = [self.reader.compared(prompt, (a, b)) for prompt, a, b in rows]
        return [float(sigmoid((first - second) / 2)) for first, second in self.read(items)]

    def scores(self, rows: Sequence[tuple[Prompt, Sequence[str]]]) -> list[list[float]]:
        """Return the probability that each answer is good. StropError for a pairwise ranker."""
        if self.config.kind != "pointwise":
            raise StropError("a pairwise ranker compares answers; it does not score each alone")
        items = [self.reader.compared(prompt, answers) for prompt, answers in rows]
        return [[float(sigmoid(one)) for one in margins] for margins in self.read(items)]

    def read(self, items: Sequence[Compared]) -> list[Numbers]:
        """Return the margins of each item, in order."""
        groups = [item.group for item in items]
        keys = [sha256_json([self.dtype, one.prompt, one.completions]) for one in groups]
        return looked_up(self.kept, keys, partial(self.computed, items), "ranking")

    def computed(self, items: Sequence[Compared], places: Sequence[int]) -> list[Numbers]:
        """Compute the margins of some of the items."""
        found: dict[int, Numbers] = {}
        for part in filled([items[place].group for place in places], ROOM):
            own = [items[places[index]] for index in part]
            with torch.no_grad():
                every = self.reader.margins(self.network, own)
            counts = [len(item.group.completions) for item in own]
            rows = (tuple(one.tolist()) for one in every.split(counts))
            found.update(zip(part, rows, strict=True))
        return [found[index] for index in range(len(places))]


def type_to_read(model: Path, work: Path | None) -> str:
    """Return the fastest type here, or the one that reading was begun in."""
    if work is None:
        return fastest_type(model)
    note = work / TYPE
    if not note.exists():
        write_json(note, fastest_type(model))
    found = read_json(note)
    if found not in DTYPES:
        raise StropError(f"{note} is damaged: remove it")
    return str(found)


def sigmoid(x: float) -> float:
    """Return the probability for a margin."""
    return float(1 / (1 + np.exp(-x)))


def save_ranker_config(config: RankerConfig, directory: Path) -> None:
    """Write what kind of ranker it is."""
    write_json(directory / RANKER, vars(config))
