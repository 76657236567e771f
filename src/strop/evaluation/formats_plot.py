"""The picture of a format comparison: divergence from the source against bits per weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from strop.data import atomic_path
from strop.errors import StropError, missing_extra
from strop.evaluation.formats import FormatRow


@dataclass(frozen=True)
class Family:
    """How the formats of one origin are drawn."""

    label: str  #: in the legend
    prefixes: tuple[str, ...]  #: of the names of its formats
    color: str  #: from the palette of Okabe & Ito (2008), which colour-blind readers can tell apart
    marker: str  #: of matplotlib


#: The first family with a fitting prefix wins.
FAMILIES = (
    Family("Strop", ("bfp",), "#0072B2", "o"),
    Family("OCP MX, float", ("mxfp",), "#D55E00", "s"),
    Family("OCP MX, integer", ("mxint",), "#E69F00", "D"),
    Family("NVFP4", ("nvfp",), "#009E73", "P"),
    Family("MSFP", ("msfp",), "#CC79A7", "^"),
    Family("shared microexponents", ("mx",), "#56B4E9", "v"),
)
INK, GRID = "#222222", "#D9D9D9"

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "strop",  # equal rows make equal files
}


def plot_formats(rows: Sequence[FormatRow], path: Path) -> None:
    """Draw KL divergence (log scale) against bits per weight as an SVG, or a PNG by its suffix.

    One panel for weights alone, a second one beside it when activations were quantized too; the
    line joins the formats that no smaller one beats. Raises StropError without matplotlib and for
    another suffix.
    """
    check_plot(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [
        ("weights only", [row for row in rows if row.activations is None]),
        ("weights and activations", [row for row in rows if row.activations is not None]),
    ]
    panels = [(title, part) for title, part in panels if part]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.6 * len(panels), 5.4), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axis, (title, part) in zip(axes, panels, strict=True):
            axis.set_title(title, loc="left", fontsize=11)
            draw_points(axis, part)
        frame(axes, rows)
        title = f"{Path(rows[0].check.source).name}: what each number format costs"
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
        canvas.draw()  # fixes the layout, on which the places of the labels depend
        for axis, (_, part) in zip(axes, panels, strict=True):
            place_labels(axis, part)
        with atomic_path(path) as partial:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(partial, format=path.suffix[1:], metadata=metadata, dpi=110)


def check_plot(path: Path) -> None:
    """Raise StropError if `plot_formats` cannot draw to `path`; ask before long work."""
    if path.suffix not in (".svg", ".png"):
        raise StropError(f"{path}: a plot is written as .svg or .png")
    if find_spec("matplotlib") is None:
        raise missing_extra("matplotlib", "report")


def family_of(name: str) -> Family:
    """Return the family of a format; what has no known prefix is Strop's own."""
    for family in FAMILIES:
        if name.startswith(family.prefixes):
            return family
    return FAMILIES[0]


def draw_points(axis: Any, rows: Sequence[FormatRow]) -> None:
    """Draw the points with their intervals, and the line through the best."""
    best = frontier(rows)
    axis.plot(
        [row.bits_per_weight for row in best],
        [row.check.kl.estimate for row in best],
        color="#BBBBBB",
        linewidth=1.2,
        zorder=1,
    )
    for family in FAMILIES:
        members = [row for row in rows if family_of(row.format) is family]
        if not members:
            continue
        bits = [row.bits_per_weight for row in members]
        kl = [row.check.kl for row in members]
        axis.vlines(
            bits,
            [interval.low for interval in kl],
            [interval.high for interval in kl],
            color=family.color,
            linewidth=1.4,
            zorder=2,
        )
        axis.plot(
            bits,
            [interval.estimate for interval in kl],
            family.marker,
            color=family.color,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.8,
            label=family.label,
            zorder=3,
        )


def frontier(rows: Sequence[FormatRow]) -> list[FormatRow]:
    """Return the rows that no row of at most as many bits beats, by rising bits."""
    best: list[FormatRow] = []
    for row in sorted(rows, key=lambda row: (row.bits_per_weight, row.check.kl.estimate)):
        if not best or row.check.kl.estimate < best[-1].check.kl.estimate:
            best.append(row)
    return best


def frame(axes: Sequence[Any], rows: Sequence[FormatRow]) -> None:
    """Set scales, grid, names of the axes and the legend."""
    from matplotlib.ticker import MultipleLocator

    check = rows[0].check
    for axis in axes:
        axis.set_yscale("log")
        axis.margins(x=0.09, y=0.08)
        axis.xaxis.set_major_locator(MultipleLocator(1))
        axis.set_xlabel("bits per weight, over all weights")
        axis.grid(True, color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
    axes[0].set_ylabel(
        f"KL divergence from the source (nats per token)\n{check.kl.level:.0%} intervals over "
        f"{check.chunks} chunks of {check.chunk} tokens"
    )
    axes[-1].legend(frameon=False, loc="upper right")


def place_labels(axis: Any, rows: Sequence[FormatRow]) -> None:
    """Write each name beside its point, where it covers no other name, point or line of the best.

    Each label in turn takes the nearest free of a few places, or the one that covers least; after a
    few rounds the labels have made room for each other. A thin line joins a far label to its point.
    """
    renderer = axis.figure.canvas.get_renderer()
    scale = axis.figure.dpi / 72.0
    anchors = [(row.bits_per_weight, row.check.kl.estimate) for row in rows]
    points = [tuple(axis.transData.transform(anchor)) for anchor in anchors]
    labels = [
        axis.annotate(
            row.format,
            anchor,
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
            va="center",
            zorder=4,
        )
        for row, anchor in zip(rows, anchors, strict=True)
    ]
    sizes = [label.get_window_extent(renderer) for label in labels]
    line = [
        axis.transData.transform((r.bits_per_weight, r.check.kl.estimate)) for r in frontier(rows)
    ]
    fixed = [square(point, 5.0 * scale) for point in points] + [
        square(between(start, end, step / 12), scale)
        for start, end in pairwise(line)
        for step in range(1, 12)
    ]
    legend = axis.get_legend()
    if legend is not None:
        fixed.append(tuple(legend.get_window_extent(renderer).extents))
    inside = tuple(axis.get_window_extent(renderer).extents)

    def box_at(index: int, place: Place) -> Box:
        (x, y), (dx, dy), size = points[index], place, sizes[index]
        left = x + dx * scale - size.width * (1.0 if dx < 0 else 0.5 if dx == 0 else 0.0)
        bottom = y + dy * scale - size.height / 2
        return (left, bottom, left + size.width, bottom + size.height)

    chosen: dict[int, Place] = {}
    for _ in range(ROUNDS):
        for index in sorted(range(len(rows)), key=lambda index: -points[index][1]):
            others = [box_at(other, place) for other, place in chosen.items() if other != index]

            def cost(place: Place, index: int = index, others: list[Box] = others) -> float:
                box = box_at(index, place)
                covered = sum(shared_area(box, other) for other in fixed + others)
                outside = shared_area(box, box) - shared_area(box, inside)
                return covered + 4.0 * outside + math.hypot(*place)

            chosen[index] = min(PLACES, key=cost)
    for index, (dx, dy) in chosen.items():
        labels[index].set(ha="right" if dx < 0 else "center" if dx == 0 else "left")
        labels[index].set_position((dx, dy))
        if math.hypot(dx, dy) > NEAR:
            axis.annotate(
                "",
                anchors[index],
                xytext=(dx, dy),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "shrinkB": 4},
                zorder=2,
            )


Box = tuple[float, ...]  #: left, bottom, right, top, in pixels
Place = tuple[int, int]  #: offset in points

#: Offsets of a label's near edge from its point, in points of 1/72 inch.
PLACES = tuple(
    (dx, dy)
    for reach in (1, 2, 3, 4)
    for dx, dy in (
        (8 * reach, 0),
        (-8 * reach, 0),
        (6 * reach, 9 * reach),
        (6 * reach, -9 * reach),
        (-6 * reach, 9 * reach),
        (-6 * reach, -9 * reach),
        (9 * reach, 4 * reach),
        (9 * reach, -4 * reach),
        (-9 * reach, 4 * reach),
        (-9 * reach, -4 * reach),
        (0, 12 * reach),
        (0, -12 * reach),
    )
)
NEAR = 13.0  #: a label within this many points needs no line
ROUNDS = 4  #: of placing every label again; more changed nothing


def square(centre: tuple[float, ...], half: float) -> Box:
    """Return the box around a point."""
    x, y = centre
    return (x - half, y - half, x + half, y + half)


def between(start: tuple[float, ...], end: tuple[float, ...], share: float) -> tuple[float, ...]:
    """Return the point that lies at `share` of the way between two."""
    return tuple(a + (b - a) * share for a, b in zip(start, end, strict=True))


def shared_area(a: Box, b: Box) -> float:
    """Return the area that two boxes (left, bottom, right, top) share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
