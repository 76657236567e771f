"""The ways to find a mixture, each with what it costs.

Costs are in tokens of training: a token of a forward pass alone counts a third.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.console import say
from strop.errors import StropError, unknown_name
from strop.mixing.design import designed
from strop.mixing.experts import expert_weights, mixture_losses
from strop.mixing.files import Swarm
from strop.mixing.jobs import Bench, Job
from strop.mixing.nearness import near
from strop.mixing.optimum import Objective, allowed
from strop.mixing.pool import run_all
from strop.mixing.proxy import proxy_batch
from strop.mixing.runs import LIKELIHOODS, read_arrays
from strop.mixing.swarm import fitted_mixture
from strop.mixing.weights import Weights, capped, entropy, limits, natural, tempered, uniform

TEMPERATURE = 0.5  #: exponent of the domains' sizes
DRAWS = 8  #: random mixtures that are tried
LEAST_RUNS = 8  #: of a swarm, of its own accord
ETA = 50.0  #: of DoReMi and online weights, over the steps of the proxy or the run
FASTEST = 0.03  #: by which online weights move for a nat, at most
MUCH = 1e18  #: above any number of tokens
FEW = 50  #: steps of a run of a search, below which it says next to nothing
FORWARD = 1 / 3  #: what a forward pass costs, in times of a training step
MEASURED = 0.2  #: part of the tokens of a search that may go into measuring losses


@dataclass(frozen=True)
class SearchConfig:
    """What a mixture is wanted for, and what may be spent to find it."""

    objective: Objective = field(default_factory=Objective)
    tokens: int = 1_000_000  #: of a search
    final: int = 1_000_000  #: tokens of the run that the mixture is for
    runs: int = 0  #: of the swarm; 0: two more than domains, at least 8
    rounds: int = 1  #: of DoReMi
    eta: float = ETA  #: of DoReMi and online weights: their step size is eta / steps
    pull: float = 0.05  #: of swarm and experts to the natural mixture, nats per nat of divergence
    repetitions: float = 4.0  #: how often a domain may be read, at most

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        for name in ("tokens", "final", "rounds", "eta", "repetitions"):
            if not 0 < getattr(self, name) < MUCH:
                raise StropError(f"{name} must be finite and above 0, not {getattr(self, name)}")
        if not 0 <= self.pull < MUCH:
            raise StropError(f"pull must not be negative, and finite: {self.pull}")
        if self.runs and self.runs < 4:
            raise StropError(f"a swarm needs at least 4 runs, not {self.runs}")


@dataclass(frozen=True)
class Found:
    """A mixture."""

    weights: Weights
    spent: float = 0.0  #: tokens of the search
    details: dict[str, Any] = field(default_factory=dict)  #: JSON values for the report


#: Finds a mixture for each seed.
Method = Callable[[Bench, SearchConfig, Sequence[int]], list[Found]]


def fixed(weights: Callable[[Sequence[int]], Weights]) -> Method:
    """Return the method that takes weights from the sizes of the domains."""

    def find(bench: Bench, config: SearchConfig, seeds: Sequence[int]) -> list[Found]:
        return [Found(weights(bench.corpus.sizes)) for _ in seeds]

    return find


def most(bench: Bench, config: SearchConfig) -> Weights:
    """Return the largest weights that the repetitions allow in the final run."""
    return limits(bench.corpus.sizes, config.final, config.repetitions)


def best_of_random(bench: Bench, config: SearchConfig, seeds: Sequence[int]) -> list[Found]:
    """Try random mixtures in short runs, and take the best."""
    count = len(bench.corpus.names)
    each = share(bench, config, DRAWS)
    draws = {seed: np.random.default_rng(seed).dirichlet(np.ones(count), DRAWS) for seed in seeds}
    drawn = {seed: allowed(own, most(bench, config)) for seed, own in draws.items()}
    losses = tried(bench, config, drawn, each, "random mixtures")
    best = {seed: int(np.argmin(config.objective.value(own))) for seed, own in losses.items()}
    return [Found(drawn[seed][best[seed]], DRAWS * each.cost) for seed in seeds]


def swarm(bench: Bench, config: SearchConfig, seeds: Sequence[int]) -> list[Found]:
    """Fit the loss of each domain to a swarm of short runs, and take the best mixture by it.

    (RegMix, arXiv 2407.01492; Olmix 2026.)
    """
    names, sizes = bench.corpus.names, bench.corpus.sizes
    runs = config.runs or max(LEAST_RUNS, len(sizes) + 2)
    each = share(bench, config, runs)
    mixtures = {seed: designed(natural(sizes), runs, seed) for seed in seeds}
    texts = config.objective.texts(names)
    nearness = near(bench.corpus, texts)
    found = []
    for seed, losses in tried(bench, config, mixtures, each, "swarm").items():
        own = Swarm(names, texts, mixtures[seed], losses)
        weights, fitted = fitted_mixture(
            own,
            config.objective,
            natural(sizes),
            config.pull,
            most(bench, config),
            seed,
            nearness,
        )
        details = {
            "mixtures": own.mixtures.tolist(),
            "losses": own.losses.tolist(),
            "fits": list(fitted.kinds),
            "left_out_errors": [dict(one) for one in fitted.errors],
            "predicted": fitted.predict(weights[None])[0].tolist(),
        }
        found.append(Found(weights, runs * each.cost, details))
    return found


def experts(bench: Bench, config: SearchConfig, seeds: Sequence[int]) -> list[Found]:
    """Train one model for each domain, and mix what they say. (MixMin, arXiv 2502.10510.)"""
    sizes, names = bench.corpus.sizes, bench.corpus.names
    count = len(names)
    each = share(bench, config, count)
    jobs = [
        Job(tuple(one), each.steps, seed, measured=each.measured, likelihoods=True)
        for seed in seeds
        for one in np.eye(count).tolist()
    ]
    run_all(bench, jobs, "experts")
    found = []
    texts = config.objective.texts(names)
    for number, _ in enumerate(seeds):
        own = jobs[number * count : (number + 1) * count]
        said = [read_arrays(bench.place(job) / LIKELIHOODS) for job in own]
        logps = [np.stack([one[text] for one in said], axis=1).astype(float) for text in texts]
        weights = expert_weights(
            logps,
            config.objective,
            natural(sizes),
            config.pull,
            most(bench, config),
        )
        details = {"mixture_losses": mixture_losses(logps, weights).tolist()}
        found.append(Found(weights, count * each.cost, details))
    return found


def doremi(bench: Bench, config: SearchConfig, seeds: Sequence[int]) -> list[Found]:
    """Run DoReMi: a reference, and a proxy with group DRO. (arXiv 2305.10429, algorithm 1.)"""
    names, context = bench.corpus.names, bench.config.context
    batch = proxy_batch(bench.config, len(names))
    # Reference and proxy read as many tokens; the reference reads the proxy's once more, forward.
    each = config.tokens / config.rounds / (2 + FORWARD)
    steps = bench.config.steps(each)
    proxy_steps = max(1, int(each // (batch * context)))
    weights = [uniform(bench.corpus.sizes) for _ in seeds]
    spent = config.rounds * (
        steps * bench.config.batch * context + (1 + FORWARD) * proxy_steps * batch * context
    )
    rounds: list[list[dict[str, Any]]] = [[] for _ in seeds]
    for number in range(config.rounds):
        label = f"DoReMi, round {number + 1}" if config.rounds > 1 else "DoReMi"
        references = [
            Job(tuple(own.tolist()), steps, seed, ("first",), reference_for=proxy_steps)
            for own, seed in zip(weights, seeds, strict=True)
        ]
        run_all(bench, references, f"{label}: reference")
        proxies = [
            Job(
                tuple(uniform(bench.corpus.sizes).tolist()),
                proxy_steps,
                seed,
                ("second",),
                reference=bench.digest(one),
                rate=config.eta / proxy_steps,
            )
            for one, seed in zip(references, seeds, strict=True)
        ]
        results = run_all(bench, proxies, f"{label}: proxy")
        weights = [np.array(one["weights"]) for one in results]
        for own, one in zip(rounds, results, strict=True):
            own.append(one)
    return [
        Found(
            capped(own, most(bench, config)),
            spent,
            {
                "steps": proxy_steps,
                "rate": config.eta / proxy_steps,
                "entropy": entropy(own),
                "trajectories": [one["history"] for one in done],
            },
        )
        for own, done in zip(weights, rounds, strict=True)
    ]


def online(bench: Bench, config: SearchConfig, seeds: Sequence[int]) -> list[Found]:
    """Let the weights move in one run, towards the worst loss; take the shares of its second half.

    The run is as long as the final one, if there are tokens enough. In a short one the weights may
    not move as far, as losses answer to them only after some steps.
    """
    steps = bench.config.steps(min(config.tokens, config.final))
    rate = min(config.eta / steps, FASTEST)
    even = tuple(uniform(bench.corpus.sizes).tolist())
    jobs = [Job(even, steps, seed, online=True, rate=rate) for seed in seeds]
    results = run_all(bench, jobs, "online run")
    spent = steps * bench.config.batch * bench.config.context
    limit = most(bench, config)
    return [Found(capped(np.array(one["weights"]), limit), spent) for one in results]


@dataclass(frozen=True)
class Share:
    """What each of the runs of a search gets."""

    steps: int
    measured: int  #: tokens of each domain that its loss is measured on
    cost: float  #: of both, in tokens


def share(bench: Bench, config: SearchConfig, runs: int) -> Share:
    """Divide the tokens of a search among so many runs.

    Raises StropError if there is not enough for a step of each, and a window of each domain.
    """
    texts, context = len(bench.corpus.names) + bench.corpus.has_target, bench.config.context
    each, step = config.tokens / runs, bench.config.batch * context
    measured = max(context, min(bench.config.evaluated, int(MEASURED * each / FORWARD / texts)))
    measuring = FORWARD * texts * measured
    if each < measuring + step:
        raise StropError(
            f"{config.tokens:,} tokens are too few for a search of {runs} runs: give at least "
            f"{runs * (FORWARD * texts * context + step) / (1 - MEASURED):,.0f}, or fewer runs"
        )
    steps = bench.config.steps(each - measuring)
    return Share(steps, measured, steps * step + measuring)


def tried(
    bench: Bench,
    config: SearchConfig,
    mixtures: Mapping[int, NDArray[np.float64]],
    each: Share,
    label: str,
) -> dict[int, NDArray[np.float64]]:
    """Make a run with each mixture of each seed; return the losses that count, (runs, texts).

    They are those of the validation part.
    """
    texts = config.objective.texts(bench.corpus.names)
    if each.steps < FEW:
        say(
            f"{label}: runs of {each.steps} steps have hardly begun to learn: search with more "
            "tokens, in fewer runs or in smaller batches"
        )
    jobs = [
        Job(tuple(one), each.steps, seed, measured=each.measured)
        for seed, own in mixtures.items()
        for one in own.tolist()
    ]
    results = run_all(bench, jobs, label)
    losses = np.array([[one["validation"][text] for text in texts] for one in results])
    return dict(zip(mixtures, np.split(losses, len(mixtures)), strict=True))


METHODS: dict[str, Method] = {
    "uniform": fixed(uniform),
    "natural": fixed(natural),
    "temperature": fixed(lambda sizes: tempered(sizes, TEMPERATURE)),
    "random": best_of_random,
    "doremi": doremi,
    "swarm": swarm,
    "experts": experts,
    "online": online,
}


#: By objective, what was best on our benchmark, or alone is made for it
AUTO = {"mean": "doremi", "worst": "online", "target": "experts", "weighted": "experts"}


def check_method(name: str, objective: Objective) -> None:
    """Raise StropError for a method that is not known, or not for this objective."""
    if name != "auto" and name not in METHODS:
        raise unknown_name("method", name, ("auto", *METHODS))
    if name == "online" and objective.kind != "worst":
        raise StropError("online weights move towards the worst loss: give that objective")


def method_of(name: str, bench: Bench, objective: Objective) -> str:
    """Return the method of a name. Raises StropError for a target that there is not."""
    if objective.kind == "target" and not bench.corpus.has_target:
        raise StropError("the objective is a target: name one in the file of domains")
    return AUTO[objective.kind] if name == "auto" else name
