"""Find a mixture of domains, and measure what it is worth beside the baselines.

OUTPUT/mixture.json      the weights, and what they were found for
OUTPUT/swarm-N.csv       mixtures and losses of the swarm of a seed
OUTPUT/*.svg             weights, losses on the way, and DoReMi's trajectory
OUTPUT/manifest.json     how it was made, and all figures
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from strop.data import write_text
from strop.data.documents import read_domains
from strop.errors import StropError
from strop.mixing.compare import (
    Result,
    difference,
    final_runs,
    final_value,
    objective_value,
    tokens_to_reach,
)
from strop.mixing.files import Swarm, write_mixture, write_swarm
from strop.mixing.jobs import Bench, RunConfig, check_bench, start_identity
from strop.mixing.methods import (
    DRAWS,
    METHODS,
    Found,
    SearchConfig,
    check_method,
    method_of,
    most,
    share,
)
from strop.mixing.plots import plots
from strop.mixing.weights import Weights, natural, repetitions
from strop.stage import Facts, run_stage
from strop.stats import Interval
from strop.training.corpus import TARGET, Corpus, open_corpus

MIXTURE = "mixture.json"
BASELINES = ("uniform", "natural", "temperature", "random")


def mix(
    domains: Path,
    output: Path,
    method: str = "auto",
    search: SearchConfig | None = None,
    runs: RunConfig | None = None,
    seeds: int = 3,
    processes: int = 1,
    work: Path | None = None,
) -> Facts:
    """Search once for each seed, train with what was found and with the baselines, and compare.

    The mixture is the mean of those of the seeds. Raises StropError for domains that cannot be
    split or a method that is not known.
    """
    search, runs = search or SearchConfig(), runs or RunConfig()
    if seeds < 1 or processes < 1:
        raise StropError("seeds and processes must be at least 1")
    check_method(method, search.objective)
    corpus = open_corpus(read_domains(domains))
    if len(corpus.names) < 2:
        raise StropError(f"{domains}: one domain has one mixture: name at least two")

    def make(directory: Path, place: Path) -> Facts:
        bench = Bench(corpus, runs, place / "runs", processes)
        return mixed_by(bench, method, search, range(seeds), directory)

    settings = {
        "method": method,
        "search": asdict(search),
        "runs": asdict(runs),
        "seeds": seeds,
    }
    inputs = {"corpus": corpus.directory.name, "model": start_identity(runs.model)}
    return run_stage("mix", output, settings, inputs, make, work)


def mixed_by(
    bench: Bench, method: str, search: SearchConfig, seeds: Sequence[int], directory: Path
) -> Facts:
    """Search, compare, and write what came of it into a directory."""
    corpus = bench.corpus
    name = method_of(method, bench, search.objective)
    check_bench(bench)
    share(bench, search, DRAWS)
    search.objective.texts(corpus.names)
    most(bench, search)
    contenders = dict.fromkeys([name, *BASELINES])
    searches = {one: METHODS[one](bench, search, seeds) for one in contenders}
    found = searches[name]
    weights = np.mean([one.weights for one in found], axis=0)
    mixtures = {one: [seed.weights for seed in own] for one, own in searches.items()}
    results = final_runs(bench, mixtures, search.final, seeds)
    kind = search.objective.kind
    facts: Facts = {
        "method": name,
        "objective": kind,
        "table": described(corpus, weights, search.final),
        "by_seed": [one.weights.tolist() for one in found],
        "searched_tokens": found[0].spent,
        "final_tokens": search.final,
        "contenders": {
            other: {"searched_tokens": searches[other][0].spent}
            | contender(own, results[name], found, search, corpus)
            for other, own in results.items()
        },
        "search": [one.details for one in found],
    }
    note = {"method": name, "objective": kind, "tokens": search.final}
    write_mixture(directory / MIXTURE, corpus.names, weights, note)
    if name == "swarm":
        for number, one in enumerate(found):
            tables = (np.array(one.details[table]) for table in ("mixtures", "losses"))
            own = Swarm(corpus.names, search.objective.texts(corpus.names), *tables)
            write_swarm(own, directory / f"swarm-{number}.csv")
    for stem, drawing in plots(facts, results, corpus.names).items():
        write_text(directory / f"{stem}.svg", drawing)
    return facts


def described(corpus: Corpus, weights: Weights, tokens: float) -> dict[str, dict[str, float]]:
    """Return what there is of each domain, its weights before and after, and its repetitions."""
    rows = zip(
        corpus.names,
        corpus.sizes,
        natural(corpus.sizes),
        weights,
        repetitions(weights, corpus.sizes, tokens),
        strict=True,
    )
    return {
        name: {"tokens": size, "natural": float(before), "weight": float(w), "epochs": float(e)}
        for name, size, before, w, e in rows
    }


def contender(
    own: Sequence[Result],
    ours: Sequence[Result],
    found: Sequence[Found],
    search: SearchConfig,
    corpus: Corpus,
) -> dict[str, Any]:
    """Return the losses of final runs with one mixture, and how ours differ from them."""
    names = corpus.names
    value = objective_value(search.objective, names)
    texts = [*names, TARGET] if corpus.has_target else list(names)
    facts: dict[str, Any] = {
        "losses": {text: float(np.mean([one["test"][text] for one in own])) for text in texts},
        "objective": float(np.mean([value(one["test"]) for one in own])),
    }
    if own is ours:
        return facts
    facts["difference"] = plain(difference(ours, own, value))
    facts["differences"] = {text: plain(difference(ours, own, itemgetter(text))) for text in texts}
    reached = [
        tokens_to_reach(a, final_value(b, value), value) for a, b in zip(ours, own, strict=True)
    ]
    facts["reached_after"] = reached
    facts["reached_after_with_search"] = [
        None if tokens is None else tokens + one.spent
        for tokens, one in zip(reached, found, strict=True)
    ]
    return facts


def plain(value: Interval | float) -> Any:
    """Return JSON values."""
    return value.to_json() if isinstance(value, Interval) else value
