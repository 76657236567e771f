"""Candidates: several answers of a model to each of many prompts, through the engine in batch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from strop.console import progress, say
from strop.data import (
    Asked,
    Records,
    Rejected,
    prompt_key,
    read_prompts,
    read_rows,
    report_rejected,
    sha256_file,
    sha256_json,
    write_rows,
)
from strop.decoding import Sampling, complete_many
from strop.errors import StropError
from strop.models import load, pack
from strop.models.adapters import is_adapter
from strop.models.identity import model_identity
from strop.models.interface import Model
from strop.models.load import default_backend
from strop.models.merging import merge
from strop.models.references import resolve, resolve_base
from strop.stage import REJECTED, ROWS, Facts, rows_path, run_stage
from strop.tuning.encode import prompt_ids
from strop.tuning.origins import origins_of

FORMAT = "bfp8"  #: in which a model that is not packed is sampled from: perplexity +0.4%
TOGETHER = 8  #: prompts whose answers are written at once
KEPT = 4 * TOGETHER  #: prompts whose answers are kept together in one file of the work


@dataclass(frozen=True)
class SampleConfig:
    """How candidates are drawn; the defaults are those of SLiC-HF."""

    n: int = 8  #: answers to each prompt
    temperature: float = 0.7  #: 0 always takes the most likely token
    top_k: int = 40  #: choose among so many of the most likely tokens; 0: all
    max_tokens: int = 256  #: longer answers are cut, and never used for pairs
    seed: int = 0  #: the same seed gives the same answers

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        if type(self.n) is not int or self.n < 1:
            raise StropError(f"n must be at least 1, not {self.n}")
        self.sampling("", 0)

    def sampling(self, prompt: str, number: int) -> Sampling:
        """Return the settings of one answer to the prompt of some hash, with a seed of its own."""
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            min_p=0.0,
            repetition_penalty=1.0,
            max_tokens=self.max_tokens,
            seed=int(sha256_json([self.seed, prompt, number])[:16], 16),
        )


def sample(
    model: str,
    data: Path,
    output: Path,
    config: SampleConfig | None = None,
    columns: Mapping[str, str] | None = None,
    work: Path | None = None,
) -> Facts:
    """Write candidates for the prompts of a file of rows into a stage's directory.

    A row has prompt, candidates, tokens and finish (why each ended), and the reference answer where
    the data has one. A model that is not packed is packed first, in 8 bits, into the work. Raises
    StropError for bad data, and for what the engine does not run.
    """
    config = config or SampleConfig()
    path = rows_path(data, output)
    inputs = {"model": model_identity(model), "data": sha256_file(path)}
    settings = {"model": model, **asdict(config), "columns": dict(columns or {})}

    def make(directory: Path, place: Path) -> Facts:
        records = asked_of(path, columns)
        loaded = engine(model, place)
        rows, rejected = answered(loaded, records.rows, config, place)
        rejected = [*records.rejected, *records.located(rejected)]
        total = len(records.rows) + len(records.rejected)
        report_rejected(rejected, total, directory / REJECTED)
        write_rows(directory / ROWS, rows)
        origins_of([Path(model).expanduser()]).write(directory)
        return facts_of(rows, rejected)

    return run_stage("sample", output, settings, inputs, make, work)


def asked_of(path: Path, columns: Mapping[str, str] | None) -> Records[Asked]:
    """Read prompts. Rows of a stage have other columns too, which are ignored."""
    usual = {"prompt": "prompt"} if path.name == ROWS else None
    return read_prompts(path, columns or usual)


def engine(model: str, work: Path) -> Model:
    """Load a packed model; pack one that is not."""
    adapter = is_adapter(model)
    if not adapter and default_backend(resolve(model)) == "native":
        return load(model)
    packed = work / "packed"
    if not packed.is_dir():
        say(f"{model} is not packed: sampling from it in {FORMAT}")
        if not adapter:
            pack(model, FORMAT, packed)
            return load(str(packed))
        # Not by way of the cache, which would keep a whole model for each adapter that is tried.
        with tempfile.TemporaryDirectory(dir=work) as folder:
            path = Path(model).expanduser()
            merge(path, resolve_base(path), Path(folder))
            pack(folder, FORMAT, packed)
    return load(str(packed))


def answered(
    model: Model, asked: Sequence[Asked], config: SampleConfig, work: Path
) -> tuple[list[dict[str, Any]], list[Rejected]]:
    """Return a row for each prompt, and the prompts that leave no room for an answer."""
    rows: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    fitting: list[tuple[Asked, list[int]]] = []
    for number, one in enumerate(asked):
        ids = list(prompt_ids(model.tokenizer, one.prompt))
        if len(ids) >= model.context_length:
            reason = f"prompt longer than the context of {model.context_length} tokens"
            rejected.append(Rejected(number + 1, reason, vars(one)))
        else:
            fitting.append((one, ids))
    if not fitting:
        raise StropError(f"no prompt fits the context of {model.context_length} tokens")
    with progress("sampling", config.n * len(fitting), "answers") as advance:
        for start in range(0, len(fitting), KEPT):
            kept = work / f"answers-{start // KEPT:05}.jsonl"
            lot = fitting[start : start + KEPT]
            if not kept.exists():
                write_rows(kept, written(model, lot, config))
            rows += read_rows(kept)
            advance(config.n * len(lot))
    return rows, rejected


def written(
    model: Model, lot: Sequence[tuple[Asked, list[int]]], config: SampleConfig
) -> Iterator[dict[str, Any]]:
    """Yield a row for each prompt, when all are answered."""
    # Each place of the engine's batch keeps one prompt in its cache for all answers to it.
    jobs = [
        (place, number)
        for start in range(0, len(lot), TOGETHER)
        for number in range(config.n)
        for place in range(start, min(start + TOGETHER, len(lot)))
    ]
    keys = [prompt_key(asked.prompt) for asked, _ in lot]
    prompts = [lot[place][1] for place, _ in jobs]
    samplings = [config.sampling(keys[place], number) for place, number in jobs]
    found = {}
    for index, answer in complete_many(model, prompts, samplings, width=TOGETHER):
        found[jobs[index]] = replace(answer, states=None)
    for place, (asked, _) in enumerate(lot):
        answers = [found[place, number] for number in range(config.n)]
        row: dict[str, Any] = {
            "prompt": asked.prompt,
            "candidates": [one.text for one in answers],
            "tokens": [list(one.tokens) for one in answers],
            "finish": [one.finish_reason for one in answers],
        }
        yield row if asked.reference is None else row | {"reference": asked.reference}


def facts_of(rows: Sequence[Mapping[str, Any]], rejected: Sequence[Rejected]) -> Facts:
    """Count what was written."""
    lengths = [len(ids) for row in rows for ids in row["tokens"]]
    different = sum(len(set(map(tuple, row["tokens"]))) for row in rows)
    ended = sum(reason == "end" for row in rows for reason in row["finish"])
    return {
        "prompts": len(rows),
        "rejected": len(rejected),
        "answers": len(lengths),
        "different": different,
        "ended": ended,
        "mean_tokens": sum(lengths) / len(lengths),
    }
