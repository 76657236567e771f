"""Mixtures of ten domains: every method and baseline at equal tokens, over five seeds.

For each seed every method searches, with at most twice the tokens of a final run, and then a
model is trained with the mixture that it found; baselines are trained without a search, and uniform
weights a second time on the tokens of a search as well. Losses are of text that neither training
nor the search has seen. Also: what sampling by a mixture costs beside plain training, and a step of
the proxy of DoReMi beside a plain one. Work is kept in runs/mixing. Writes
benchmarks/results/mixing*.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import regmix
from engine_models import HERE
from mixing_data import domains_file
from strop.console import say
from strop.data import write_json
from strop.data.documents import read_domains
from strop.mixing.compare import (
    Result,
    Value,
    difference,
    final_runs,
    final_value,
    objective_value,
    tokens_to_reach,
)
from strop.mixing.doremi import Trajectory, proxy_objective
from strop.mixing.jobs import Bench, RunConfig, opened
from strop.mixing.methods import METHODS, Found, SearchConfig
from strop.mixing.optimum import Objective
from strop.mixing.proxy import proxy_batch, proxy_order
from strop.models.environment import environment
from strop.models.machine import physical_cores
from strop.stats import Interval
from strop.training.corpus import TRAINED, open_corpus
from strop.training.loop import train
from strop.training.windows import (
    fixed_order,
    language_modelling,
    mixed,
    training_windows,
    window_losses,
)
from tables import table

RESULTS = HERE / "results"
TOKENIZER = 1024
RUNS = RunConfig(model="0.2M", context=128, batch=4, learning_rate=5e-3, evaluated=49_152)
TOKENS = 1_000_000  #: of a final run
SEARCH = 2_000_000  #: of a search, at most
SEEDS = (0, 1, 2, 3, 4)  #: with three, Student's interval is 2.5 deviations wide, with five 1.2
OBJECTIVES = ("mean", "worst")
#: What a method is searched with; those that know no objective have one mixture for all
METHODS_OF = {
    "mean": ("swarm", "experts"),
    "worst": ("swarm", "experts", "online"),
}
FOR_ALL = ("doremi",)
BASELINES = ("uniform", "natural", "temperature")
TIMED, STEPS = 15, 60  #: alternating rounds of so many steps


def searched(bench: Bench) -> dict[str, list[Found]]:
    """Return what every method found for each seed."""
    keys = [(name, name, "mean") for name in (*BASELINES, *FOR_ALL)]
    for kind, own in METHODS_OF.items():
        keys += [(f"{name}, {kind}", name, kind) for name in (*own, "random")]
    found = {}
    for key, name, kind in keys:
        config = SearchConfig(Objective(kind), SEARCH, TOKENS)
        found[key] = METHODS[name](bench, config, SEEDS)
        say(f"{key}: {np.round(np.mean([one.weights for one in found[key]], axis=0), 3)}")
    return found


def value_rows(
    results: dict[str, list[Result]], searches: dict[str, list[Found]], values: dict[str, Value]
) -> list[dict[str, Any]]:
    """Return the rows of the table of losses."""
    rows = []
    for name, own in results.items():
        row: dict[str, Any] = {
            "mixture": name,
            "tokens of search": round(searches[name][0].spent) if name in searches else 0,
        }
        for kind, value in values.items():
            row[f"{kind} loss"] = float(np.mean([value(one["test"]) for one in own]))
        for kind, value in values.items():
            for base in ("uniform", "natural"):
                found = None if base == name else interval(own, results[base], value)
                row[f"{kind}, against {base}"] = found and found.to_json()
        rows.append(row)
    return rows


def interval(ours: Sequence[Result], theirs: Sequence[Result], value: Value) -> Interval:
    """Return ours - theirs, over the seeds."""
    found = difference(ours, theirs, value)
    assert isinstance(found, Interval)
    return found


def best(results: dict[str, list[Result]], kind: str, value: Value) -> str:
    """Return the method for an objective that is best on the validation part."""
    names = [*FOR_ALL, *(f"{name}, {kind}" for name in METHODS_OF[kind])]
    return min(names, key=lambda name: np.mean([value(one["validation"]) for one in results[name]]))


def ratios(
    ours: Sequence[Result], theirs: Sequence[Result], spent: Sequence[float], value: Value
) -> list[float]:
    """Return for each seed the tokens of their run over those that ours took for the same loss.

    It is 0 where ours never got there.
    """
    found = []
    for a, b, extra in zip(ours, theirs, spent, strict=True):
        reached = tokens_to_reach(a, final_value(b, value), value)
        found.append(0.0 if reached is None else b["curve"][-1]["tokens"] / (reached + extra))
    return found


def timed(bench: Bench) -> dict[str, float]:
    """Time sampling by a mixture beside plain training, and a proxy's step beside a plain one."""
    corpus, config = bench.corpus, bench.config
    windows = training_windows(corpus, TRAINED, config.context)
    batch = proxy_batch(config, len(corpus.names))
    second = training_windows(corpus, TRAINED[1:], config.context)
    settings = config.training(STEPS, 0)
    chosen = [windows[index] for index in range(STEPS * config.batch)]
    weights = np.arange(1, len(corpus.names) + 1) / 10
    network = opened(bench, 0).network
    by_mixture = fixed_order(mixed(weights, windows.sizes, STEPS, config.batch, 0))
    rows = proxy_order(second, STEPS, batch, 0)
    for_proxy = fixed_order(rows)
    reference = stored(network, second, rows, config.context)
    plain = language_modelling(corpus.names)
    proxy = proxy_objective(corpus.names, reference, Trajectory.start(len(corpus.names)), 1e-3)
    whole = replace(settings, batch=batch, room=batch * (config.context + 1))
    cases: dict[str, Callable[[Path], Any]] = {
        "plain": lambda work: train(network, chosen, plain, settings, work),
        "mixture": lambda work: train(network, windows, plain, settings, work, order=by_mixture),
        "plain step": lambda work: train(network, second, plain, whole, work, order=for_proxy),
        "proxy step": lambda work: train(network, second, proxy, whole, work, order=for_proxy),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(TIMED):
        # Forwards and backwards, so that neither of a pair always comes first.
        for name, run in [*cases.items()][:: 1 - 2 * (number % 2)]:
            with tempfile.TemporaryDirectory() as work:
                begin = time.perf_counter()
                run(Path(work))
                seconds[name].append(time.perf_counter() - begin)
    pairs = {
        "sampler_ratio": ("plain", "mixture"),
        "doremi_step_ratio": ("proxy step", "plain step"),
    }
    return {
        key: float(np.median(np.array(seconds[a]) / np.array(seconds[b])))
        for key, (a, b) in pairs.items()
    }


def stored(network: Any, windows: Any, order: Any, context: int) -> list[np.ndarray]:
    """Return the losses of windows that a proxy will see."""
    kept = [np.zeros((size, context), np.float32) for size in windows.sizes]
    with torch.no_grad():
        for index in np.unique(order):
            one = windows[int(index)]
            kept[one.domain][one.place] = window_losses(network, [one]).numpy()
    return kept


def main() -> None:
    """Do what is not done yet, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/mixing"))
    place = parser.parse_args().output
    corpus = open_corpus(read_domains(domains_file(place / "data", TOKENIZER)))
    bench = Bench(corpus, RUNS, place / "runs", physical_cores())
    found = searched(bench)
    results = final_runs(
        bench, {name: [one.weights for one in own] for name, own in found.items()}, TOKENS, SEEDS
    )
    uniform = [one.weights for one in found["uniform"]]
    longer = {f"uniform, {(TOKENS + SEARCH) // TOKENS} times the tokens": uniform}
    more = final_runs(bench, longer, TOKENS + SEARCH, SEEDS)
    values = {kind: objective_value(Objective(kind), corpus.names) for kind in OBJECTIVES}
    rows = value_rows(results | more, found, values)
    facts = environment()
    common = {
        "machine": {
            "processor": facts["processor"],
            "torch": f"torch {facts['versions']['torch']}",
        },
        "model": f"Llamas of {RUNS.model} weights from scratch, {TOKENIZER} tokens (BPE)",
        "text": f"ten domains from packages, final runs of {TOKENS:,} tokens",
    }
    every = f"means over {len(SEEDS)} seeds"
    tables = {
        "mixing": (
            f"Losses on text that nothing was chosen on, nats per token, {every}, with 95% "
            "intervals (Student)",
            rows,
        ),
        "mixing_weights": (
            f"Weights that were found, {every}, and the largest difference between two seeds",
            [weight_row(name, own, corpus.names) for name, own in found.items()],
        ),
        "mixing_losses": (
            f"Losses of each domain on that text, nats per token, {every}",
            [loss_row(name, own, corpus.names) for name, own in (results | more).items()],
        ),
    }
    for name, (title, own) in tables.items():
        write_json(RESULTS / f"{name}.json", {"name": name, "title": title, **common, "rows": own})
        print(table(name))
    claims = claimed(results, found, values) | timed(bench) | regmix.measured()
    print("RESULT", json.dumps({key: round(value, 4) for key, value in claims.items()}))


def weight_row(name: str, own: Sequence[Found], names: Sequence[str]) -> dict[str, Any]:
    """Return the weights of one method."""
    every = np.array([one.weights for one in own])
    mean = dict(zip(names, every.mean(axis=0).round(3).tolist(), strict=True))
    return {"mixture": name, **mean, "seeds differ by": float(np.ptp(every, axis=0).max().round(3))}


def loss_row(name: str, own: Sequence[Result], names: Sequence[str]) -> dict[str, Any]:
    """Return the losses of one mixture."""
    return {"mixture": name} | {
        domain: float(np.mean([one["test"][domain] for one in own])) for domain in names
    }


def claimed(
    results: dict[str, list[Result]], found: dict[str, list[Found]], values: dict[str, Value]
) -> dict[str, float]:
    """Return what RESULT says of the best method for each objective, and print it in words."""
    claims = {}
    for kind, value in values.items():
        name = best(results, kind, value)
        differences = {
            base: interval(results[name], results[base], value) for base in ("uniform", "natural")
        }
        least = max(differences.values(), key=lambda one: one.high)
        claims[f"{kind}_gain"], claims[f"{kind}_gain_low"] = -least.estimate, -least.high
        for base, one in differences.items():
            print(f"{kind} loss, {name} against {base}: {one:+.4f} nats (n = {one.n} seeds)")
        spent = [one.spent for one in found[name]]
        for key, extra in (("token_ratio", [0.0] * len(spent)), ("token_ratio_searched", spent)):
            each = ratios(results[name], results["uniform"], extra, value)
            # Of runs that never got there it is known that they are below: a median holds.
            claims[f"{kind}_{key}"] = float(np.median(each))
            shown = ", ".join(f"{one:.3f}" if one else "never" for one in each)
            print(f"{kind} loss, {name}: {key} {np.median(each):.3f} (median of {shown})")
    claims["token_ratio"] = min(claims[f"{kind}_token_ratio"] for kind in values)
    return claims


if __name__ == "__main__":
    main()
