"""The stage `generate`: what a model writes for some prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from strop.console import progress
from strop.data import read_text, write_text
from strop.decoding import DRAFTERS, Sampling, complete, planner_for, prompt_tokens
from strop.errors import StropError, unknown_name
from strop.recipes.options import BackendName, ModelReference, label
from strop.recipes.stage import Context, Finished, Metrics, Sample, Section, Stage

OUTPUT = "generations.jsonl"  # one row per prompt


@dataclass(frozen=True)
class GenerateOptions:
    """What to ask, and how to choose tokens; the recipe's seed makes the noise."""

    model: ModelReference  #: the model that writes
    prompts: tuple[str, ...]  #: one generation for each
    raw: bool = False  #: continue prompts as they are; else as chat messages, if the model chats
    system: str | None = None  #: instruction that comes before each prompt
    temperature: float = Sampling.temperature  #: 0 always takes the most likely token
    top_k: int = Sampling.top_k  #: keep this many of the most likely tokens (0: all)
    top_p: float = Sampling.top_p  #: keep the fewest tokens that hold this probability (1: all)
    min_p: float = Sampling.min_p  #: keep tokens this fraction as likely as the best one (0: all)
    repetition_penalty: float = Sampling.repetition_penalty  #: above 1 against repeated tokens
    stop: tuple[str, ...] = Sampling.stop  #: end before the first of these texts
    max_tokens: int = 128  #: most tokens of one generation
    backend: BackendName | None = None  #: what computes; else native if packed, torch if not
    #: what guesses tokens, for speed only: auto, lookup, nested, none, or a draft head or model
    drafter: str = "auto"

    def __post_init__(self) -> None:
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise StropError("prompts: at least one is needed, and none may be empty")
        if self.drafter not in DRAFTERS and not Path(self.drafter).exists():
            raise unknown_name("drafter", self.drafter, DRAFTERS)
        self.sampling(0)  # raises for a value out of range

    def sampling(self, seed: int) -> Sampling:
        """Return the settings of the decoder."""
        own = {field.name for field in fields(self)}
        names = [field.name for field in fields(Sampling) if field.name in own]
        return Sampling(seed=seed, **{name: getattr(self, name) for name in names})


def run(options: GenerateOptions, context: Context) -> Metrics:
    """Complete each prompt; the texts go to generations.jsonl, counts to the metrics."""
    from strop.models import load

    model = load(options.model, options.backend)
    planner = planner_for(model, options.drafter)
    rows: list[dict[str, Any]] = []
    with progress("generating", len(options.prompts), "prompts") as advance:
        for prompt in options.prompts:
            tokens = prompt_tokens(model.tokenizer, prompt, options.system, options.raw)
            completion = complete(model, tokens, options.sampling(context.seed), None, planner)
            rows.append(
                {
                    "prompt": prompt,
                    "completion": completion.text,
                    "tokens": len(completion.tokens),
                    "finish_reason": completion.finish_reason,
                }
            )
            advance(1)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(context.directory / OUTPUT, "".join(lines))
    return {"prompts": len(rows), "generated_tokens": sum(row["tokens"] for row in rows)}


def describe(options: GenerateOptions) -> str:
    """Say what the stage does."""
    count = len(options.prompts)
    return f"generate from {label(options.model)}, {count} prompt{'s' if count > 1 else ''}"


def section(stages: Sequence[Finished]) -> Section:
    """Show the answers of all models to one prompt side by side."""
    answers: dict[str, list[tuple[str, str]]] = {}
    for stage in stages:
        for line in read_text(stage.directory / OUTPUT).strip("\n").split("\n"):
            row = json.loads(line)
            cut = " […]" if row["finish_reason"] in ("length", "context") else ""
            title = f"{stage.name}: {label(stage.options.model)}"
            answers.setdefault(row["prompt"], []).append((title, row["completion"] + cut))
    samples = tuple(Sample(prompt, tuple(texts)) for prompt, texts in answers.items())
    return Section(
        title="Samples",
        summary="",
        samples=samples,
        notes=(
            "Same prompts, same settings, same seed: the noise of sampling is the same for all, so "
            "texts part where the models do. A few samples are for reading, not for judging.",
        )
        if len(stages) > 1
        else (),
    )


GENERATE = Stage(GenerateOptions, run, describe, section)
