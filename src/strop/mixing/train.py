"""Train a model, from scratch or on, on a corpus whose domains are mixed as a mixture says.

OUTPUT/config.json, model.safetensors, tokenizer.json, ...    the model
OUTPUT/history.jsonl, curves.svg, manifest.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.data import sha256_json, write_rows, write_text
from strop.data.documents import read_domains
from strop.errors import StropError
from strop.mixing.files import read_mixture
from strop.mixing.jobs import Bench, RunConfig, check_bench, held_out, opened, start_identity
from strop.mixing.weights import natural, repetitions
from strop.stage import Facts, run_stage
from strop.stats import paired_difference, ratio
from strop.svg import Line, lines, standalone
from strop.training.corpus import TARGET, TRAINED, Corpus, open_corpus
from strop.training.loop import train
from strop.training.network import save_network
from strop.training.windows import (
    Window,
    domain_losses,
    fixed_order,
    language_modelling,
    mixed,
    training_windows,
)


def train_on_mixture(
    domains: Path,
    output: Path,
    mixture: Path | None = None,
    tokens: int = 1_000_000,
    config: RunConfig | None = None,
    seed: int = 0,
    work: Path | None = None,
) -> Facts:
    """Train on so many tokens; without a mixture, as the domains come: by their tokens.

    Returns the loss of each domain on the test part, before and after.
    """
    config = config or RunConfig()
    if tokens < config.batch * config.context:
        raise StropError(f"{tokens} tokens are less than one batch")
    corpus = open_corpus(read_domains(domains))
    weights = natural(corpus.sizes) if mixture is None else read_mixture(mixture, corpus.names)

    def make(directory: Path, place: Path) -> Facts:
        bench = Bench(corpus, config, place, processes=1)
        check_bench(bench)
        trainee = opened(bench, seed)
        network, names = trainee.network, [*corpus.names, TARGET]
        windows = training_windows(corpus, TRAINED, config.context)
        steps = config.steps(tokens)
        order = mixed(weights, windows.sizes, steps, config.batch, seed)
        tests = held_out(bench, "test", config.evaluated)
        before = domain_losses(network, tests, len(names), config.room)
        trained = train(
            network,
            windows,
            language_modelling(names),
            config.training(steps, seed),
            place / "training",
            held_out(bench, "validation", config.evaluated),
            "train",
            fixed_order(order),
        )
        after = domain_losses(network, tests, len(names), config.room)
        save_network(trainee, directory)
        rows = sorted(
            [*trained.history, *trained.evaluations], key=lambda row: (row["step"], row["kind"])
        )
        write_rows(directory / "history.jsonl", rows)
        write_text(directory / "curves.svg", standalone(curves(trained.evaluations, names)))
        read = repetitions(weights, corpus.sizes, steps * config.batch * config.context)
        return {
            "steps": trained.steps,
            "tokens": steps * config.batch * config.context,
            "domains": {
                name: {"weight": float(w), "epochs": float(e)}
                for name, w, e in zip(corpus.names, weights, read, strict=True)
            },
            "losses": {
                names[number]: change(beginnings(corpus, names[number], own), first, last)
                for number, (first, last) in enumerate(zip(before, after, strict=True))
                if (own := [one for one in tests if one.domain == number])
            },
        }

    settings = {"tokens": tokens, "config": asdict(config), "seed": seed}
    inputs = {
        "corpus": corpus.directory.name,
        "weights": sha256_json(weights.tolist()),
        "model": start_identity(config.model),
    }
    return run_stage("train", output, settings, inputs, make, work)


def beginnings(corpus: Corpus, name: str, windows: Sequence[Window]) -> NDArray[np.int64]:
    """Return the number of the document of the test part that each window begins in."""
    documents = corpus.documents(name, "test")
    return np.array([documents[one.place * (len(one.tokens) - 1)] for one in windows])


def change(
    documents: NDArray[np.int64], before: NDArray[np.float64], after: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the loss of a text before and after, and the change with an interval.

    What varies is a document: windows of one are alike. Of a single document there is no interval.
    """
    numbers = np.unique(documents, return_inverse=True)[1]
    first, last = (
        np.stack([np.bincount(numbers, losses), np.bincount(numbers)], axis=1)
        for losses in (before, after)
    )
    known = paired_difference(last, first, ratio).to_json() if len(first) > 1 else None
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "change": known,
        "documents": len(first),
    }


def curves(evaluations: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Draw the validation loss of each domain on the way."""
    plots = []
    for name in names:
        points = [(row["step"], row[name]) for row in evaluations if name in row]
        if points:
            plots.append((name, [Line("validation", tuple(points))]))
    return lines(plots, "steps")
