"""Models whose answers and scores are written down, for tests of tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from strop.data import Prompt
from strop.decoding import Sampling
from strop.evaluation import evaluate as evaluation
from strop.lm import Answer, Failed, Scores


class Written:
    """A model whose answers and scores are written down."""

    chat = True

    def __init__(self, name: str, answers: dict[str, Any], dies_after: int = 10**9) -> None:
        self.name = self.identity = name
        self.answers, self.dies_after = answers, dies_after
        self.asked: list[str] = []
        self.sampling: list[Sampling] = []

    def note(self, prompt: Prompt) -> str:
        if len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked.append(str(prompt))
        return str(prompt)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sequence[Sampling], options: Sequence[str] = ()
    ) -> Iterator[tuple[int, Answer | Failed]]:
        """Answer with what is written, or with what a function that is written makes of a seed."""
        for number, prompt in reversed([*enumerate(prompts)]):
            found = self.answers[self.note(prompt)]
            self.sampling.append(sampling[number])
            if callable(found):
                found = found(sampling[number].seed)
            yield number, found if isinstance(found, Failed) else Answer(found, "end", 1, 1)

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, Scores | Failed]]:
        """Give each word of an answer the log-probability that is written."""
        for number, (prompt, answer) in reversed([*enumerate(pairs)]):
            self.note(prompt)
            found = self.answers[answer.strip()]
            scores = found
            if not isinstance(found, Failed):
                scores = Scores((float(found),) * len(answer.split()), False)
            yield number, scores


def using(monkeypatch: pytest.MonkeyPatch, *models: Written) -> None:
    """Let these models be opened by their names."""
    known = {one.name: one for one in models}
    monkeypatch.setattr(evaluation, "open_model", lambda name, remote=None: known[name])


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
