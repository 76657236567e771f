"""What a search found, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from strop.mixing.compare import Result
from strop.svg import Bar, Line, bars, lines, standalone


def plots(
    facts: Mapping[str, Any], results: Mapping[str, Sequence[Result]], names: Sequence[str]
) -> dict[str, str]:
    """Return the plots by the names of their files."""
    found = {"weights": weights(facts), "losses": losses(facts["method"], results, names)}
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
    """Draw how DoReMi's weights moved, a line for each seed."""
    return lines(
        [
            (
                name,
                [
                    Line("", tuple((step, row[number]) for step, row in enumerate(run, 1)))
                    for run in runs
                ],
            )
            for number, name in enumerate(names)
        ],
        "steps",
    )
