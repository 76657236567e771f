"""What a search found, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from strop.mixing.compare import Result
from strop.mixing.weights import entropy
from strop.svg import Bar, Line, bars, lines, standalone


def plots(
    facts: Mapping[str, Any], results: Mapping[str, Sequence[Result]], names: Sequence[str]
) -> dict[str, str]:
    """Return the plots by the names of their files."""
    shown = {name: results[name] for name in dict.fromkeys((facts["method"], "uniform", "natural"))}
    found = {"weights": weights(facts), "losses": losses(facts["method"], shown, names)}
    runs = [run for one in facts["search"] for run in one.get("trajectories", ())[-1:]]
    if runs:
        found["trajectory"] = trajectory(runs, names)
    return {name: standalone(one) for name, one in found.items()}


def weights(facts: Mapping[str, Any]) -> str:
    """Draw each domain's weight below its natural one."""
    rows = []
    for name, one in facts["table"].items():
        rows.append(Bar(name, one["natural"], f"{one['natural']:.1%} natural", after=False))
        rows.append(Bar("", one["weight"], f"{one['weight']:.1%}"))
    return bars(rows)


def losses(method: str, results: Mapping[str, Sequence[Result]], names: Sequence[str]) -> str:
    """Draw the validation loss of each domain on the way, of the first seed."""

    def drawn(name: str, other: str) -> Line:
        rows = results[other][0]["curve"][1:]  # without what an untrained network says
        points = tuple((row["tokens"], row["losses"][name]) for row in rows)
        return Line(other, points, after=other == method, dashed=other == "natural")

    return lines([(name, [drawn(name, other) for other in results]) for name in names], "tokens")


def trajectory(runs: Sequence[Sequence[Sequence[float]]], names: Sequence[str]) -> str:
    """Draw how DoReMi's weights and their entropy moved, a line for each seed."""
    moved = [np.array(run) for run in runs]
    values = {name: [run[:, number] for run in moved] for number, name in enumerate(names)}
    values["entropy, nats"] = [np.array([entropy(row) for row in run]) for run in moved]
    return lines(
        [
            (name, [Line("", tuple(enumerate(one.tolist(), 1))) for one in own])
            for name, own in values.items()
        ],
        "steps",
    )
