"""What the runs of a trial say: each selector against every kind of random rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.selection.select import RANDOM
from strop.selection.trial_plan import CHOSEN, MATCHED, MORE, Job
from strop.stage import Facts
from strop.stats import (
    Interval,
    holm,
    run_difference,
    spelled_difference,
    spelled_figure,
    spelled_p,
    verdict,
)
from strop.svg import Whisker, whiskers

LOSS = "loss"  #: the measure that every run has
UNTRAINED = "untrained"  #: the model before any run

Values = NDArray[np.float64]  #: of each tested row: (n, 2), a sum and its weight


def means(values: Mapping[str, Values]) -> dict[str, float]:
    """Return each measure of one run, over the rows that it answered."""
    return {
        name: float(np.nansum(one[:, 0]) / one[~np.isnan(one[:, 0]), 1].sum())
        for name, one in values.items()
    }


def cost_of(jobs: Sequence[Job]) -> Facts:
    """Return the mean tokens of a run, and of an answer in it, of each kind of run."""
    found: dict[str, list[Facts]] = {}
    for job in jobs:
        found.setdefault(job.kind, []).append(job.facts)
    return {
        kind: {
            key: float(np.mean([one[key] for one in some])) for key in ("tokens", "answer_tokens")
        }
        for kind, some in found.items()
    }


def compared(
    runs: Sequence[tuple[Job, Values]], selectors: Iterable[str], lower_is_better: bool
) -> Facts:
    """Compare a measure of each selector's runs with that of every kind of random ones.

    Rows without an answer in one of the runs do not count. P-values hold for all selectors
    together (Holm), and a verdict needs one below 5%.
    """
    answered = ~np.isnan(np.stack([values[:, 0] for _, values in runs])).any(axis=0)
    weights = runs[0][1][answered, 1]
    groups: dict[tuple[str, str], list[Values]] = {}
    for job, values in runs:
        groups.setdefault((job.selector, job.which), []).append(values[answered, 0])
    sums = {key: np.stack(some) for key, some in groups.items()}
    every = sums[RANDOM, CHOSEN].sum(axis=1) / weights.sum()
    found: Facts = {
        "lower_is_better": lower_is_better,
        "n": int(answered.sum()),
        "random": {"mean": float(every.mean()), "deviation": float(every.std(ddof=1))},
        "selectors": {name: {"against": {}} for name in selectors},
    }
    for name, row in found["selectors"].items():
        row["mean"] = float(sums[name, CHOSEN].sum(axis=1).mean() / weights.sum())
    for against, baseline in baselines(sums).items():
        pairs = [
            run_difference(sums[name, CHOSEN], baseline(name), weights)
            for name in found["selectors"]
        ]
        corrected = holm([p for _, p in pairs])
        for row, (difference, p), p_holm in zip(
            found["selectors"].values(), pairs, corrected, strict=True
        ):
            row["against"][against] = {
                "difference": difference.to_json(),
                "p": p,
                "p_holm": p_holm,
                "verdict": verdict(difference, lower_is_better, p=p_holm),
            }
    return found


def learned(runs: Sequence[tuple[Job, Values]], before: Values) -> Facts:
    """Compare a measure of the runs on random rows with that of the model before any training.

    That model counts as one more run, as if others of its kind would differ from it as runs do: so
    the interval is rather too wide.
    """
    random = [values for job, values in runs if (job.selector, job.which) == (RANDOM, CHOSEN)]
    every = np.stack([*random, before])
    answered = ~np.isnan(every[..., 0]).any(axis=0)
    sums = every[:, answered, 0]
    difference, p = run_difference(sums[:-1], sums[-1:], before[answered, 1])
    return {"difference": difference.to_json(), "p": p}


def baselines(sums: Mapping[tuple[str, str], Values]) -> dict[str, Callable[[str], Values]]:
    """Return what each selector is compared with, by a name of it."""
    found: dict[str, Callable[[str], Values]] = {
        "random": lambda name: sums[RANDOM, CHOSEN],
        "length-matched": lambda name: sums[name, MATCHED],
    }
    if (RANDOM, MORE) in sums:
        found["more random"] = lambda name: sums[RANDOM, MORE]
    return found


def drawn(measure: Mapping[str, Any]) -> str:
    """Draw the differences of each selector from random rows of every kind."""
    rows = []
    for name, found in measure["selectors"].items():
        for against, against_it in found["against"].items():
            one = Interval(**against_it["difference"])
            first = against == RANDOM
            label = name if first else f"against {against}"
            rows.append(Whisker(label, one.estimate, one.low, one.high, f"{one:+.4f}", after=first))
    unit = "nats per token beside random rows (blue) and others, lower is better"
    return whiskers(rows, unit, 0.0)


def summary(facts: Mapping[str, Any]) -> str:
    """Say in a sentence or two which selectors are better than random rows, by their loss."""
    found = facts["measures"][LOSS]["selectors"]
    words = {
        word: [name for name, one in found.items() if one["against"][RANDOM]["verdict"] == word]
        for word in ("better", "worse", "cannot tell")
    }
    said = [f"{word}: {', '.join(names)}" for word, names in words.items() if names]
    return f"the loss after {facts['keep']} rows, against random ones; {'; '.join(said)}."


def spelled(facts: Mapping[str, Any]) -> str:
    """Say what helped."""
    lines = []
    for name, measure in facts["measures"].items():
        random, gain, loss = measure["random"], measure["learned"], measure["lower_is_better"]
        numbers = (facts[UNTRAINED][name], random["mean"], random["deviation"])
        before, after, deviation = (spelled_figure(number, loss) for number in numbers)
        lines.append(
            f"{name}: {before} before training, {after} after {facts['keep']} random rows, "
            f"{spelled_difference(Interval(**gain['difference']), loss)}, {spelled_p(gain['p'])} "
            f"({facts['runs']['random']} runs, deviation {deviation}; n = {measure['n']})"
        )
        for selector, found in measure["selectors"].items():
            parts = [
                f"{spelled_difference(Interval(**one['difference']), loss)} against {against}: "
                f"{one['verdict']}"
                for against, one in found["against"].items()
            ]
            lines.append(f"  {selector}: {'; '.join(parts)}")
    lines.append("tokens read in a run, and of an answer:")
    lines += [
        f"  {name}: {one['tokens']:,.0f}, {one['answer_tokens']:.0f}"
        for name, one in facts["cost"].items()
    ]
    return "\n".join(lines)
