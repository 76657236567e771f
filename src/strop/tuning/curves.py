"""The curves of a run: what to look at, in the order in which to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strop.svg import Line, lines

Steps = Sequence[Mapping[str, Any]]  #: figures of one step, or evaluation, each


@dataclass(frozen=True)
class Plot:
    """One plot: its title, and the figures in it with what they are called."""

    title: str
    figures: Mapping[str, str]


PLOTS = (
    Plot("loss", {"loss": "loss"}),
    Plot("log-probability of answers, nats", {"chosen": "chosen", "rejected": "rejected"}),
    Plot("margin of chosen over rejected, nats", {"margin": "margin"}),
    Plot("share of pairs", {"right": "in the right order", "active": "open hinges"}),
    Plot("norm of the gradient, before clipping", {"norm": "norm"}),
)


def curves(steps: Steps, evaluations: Steps) -> str:
    """Draw each figure that the run has over its steps: on batches, and on held-out items."""
    plots = []
    for plot in PLOTS:
        drawn = [
            line
            for order, (key, name) in enumerate(plot.figures.items())
            for line in (
                line_of(steps, key, name, False, order > 0),
                line_of(evaluations, key, f"{name}, held out", True, order > 0),
            )
            if line
        ]
        if drawn:
            plots.append((plot.title, drawn))
    return lines(plots, "steps")


def line_of(rows: Steps, key: str, name: str, held_out: bool, dashed: bool) -> Line | None:
    """Return one figure over the steps, if there is any."""
    points = [(float(row["step"]), float(row[key])) for row in rows if key in row]
    return Line(name, tuple(points), held_out, dashed) if len(points) > 1 else None
