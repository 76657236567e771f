"""Plots as small SVG elements, drawn with the colours of the page that holds them.

Text and shapes carry the classes of report.html.j2 (`ink`, `muted`, `before`, `after`, `grid`), so
that a plot follows the page from light to dark. Coordinates are rounded to a tenth of a pixel:
equal numbers give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 460  # of every plot, in pixels of its own
LABEL = 100  # width of the labels on the left
VALUE = 90  # room for the numbers on the right of a bar
ROW = 34  # height of a row


@dataclass(frozen=True)
class Bar:
    """One row of a bar plot."""

    label: str  #: on the left
    value: float  #: length of the bar, zero or more
    text: str  #: the number as it is printed, at the end of the bar
    after: bool = True  #: colour: the result, or the source


@dataclass(frozen=True)
class Whisker:
    """One row of an interval plot."""

    label: str  #: on the left
    estimate: float  #: the dot
    low: float  #: left end of the line
    high: float  #: right end of the line
    text: str  #: the numbers as they are printed, above the line
    after: bool = True  #: colour: the result, or the source


def bars(rows: Sequence[Bar]) -> str:
    """Draw horizontal bars from zero, on one scale."""
    largest = max((row.value for row in rows), default=0.0) or 1.0
    room = WIDTH - LABEL - VALUE
    parts = []
    for index, row in enumerate(rows):
        top = index * ROW
        length = room * row.value / largest
        parts += [
            text(LABEL - 12, top + 22, row.label, "muted", "end"),
            f'<rect class="{tone(row.after)}" x="{LABEL}" y="{top + 6}" '
            f'width="{number(max(length, 1.0))}" height="22" rx="3"/>',
            text(LABEL + length + 8, top + 22, row.text, "ink", "start"),
        ]
    return svg(len(rows) * ROW, parts)


def whiskers(rows: Sequence[Whisker], unit: str, reference: float | None = None) -> str:
    """Draw estimates with their intervals over an axis in `unit`; `reference` is a dashed line."""
    marks = [edge for row in rows for edge in (row.low, row.high)]
    marks += [] if reference is None else [reference]
    axis = ticks(min(marks), max(marks))
    left, right = float(LABEL), float(WIDTH - 24)

    def across(value: float) -> float:
        return left + (right - left) * (value - axis[0]) / (axis[-1] - axis[0])

    row_height = ROW + 12
    bottom = len(rows) * row_height + 6
    parts = []
    for tick in axis:
        x = number(across(tick))
        parts += [
            f'<line class="grid" x1="{x}" y1="0" x2="{x}" y2="{bottom}"/>',
            text(across(tick), bottom + 18, f"{tick:g}", "muted", "middle"),
        ]
    if reference is not None:
        x = number(across(reference))
        parts.append(f'<line class="reference" x1="{x}" y1="0" x2="{x}" y2="{bottom}"/>')
    for index, row in enumerate(rows):
        y = index * row_height + 30
        low, middle, high = across(row.low), across(row.estimate), across(row.high)
        anchor, x_text = label_side(middle, left, right)
        parts += [
            text(LABEL - 12, y + 4, row.label, "muted", "end"),
            f'<line class="whisker {tone(row.after)}" x1="{number(low)}" y1="{y}" '
            f'x2="{number(high)}" y2="{y}"/>',
            f'<circle class="{tone(row.after)}" cx="{number(middle)}" cy="{y}" r="5.5"/>',
            text(x_text, y - 12, row.text, "ink", anchor),
        ]
    parts.append(text(right, bottom + 36, unit, "muted", "end"))
    return svg(bottom + 42, parts)


def label_side(x: float, left: float, right: float) -> tuple[str, float]:
    """Keep a label of about 180 pixels that belongs to `x` within the plot."""
    if x - left < 90:
        return "start", left + 4
    if right - x < 90:
        return "end", right
    return "middle", x


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return round numbers from at most `low` to at least `high`, about `wanted` of them."""
    size = max(abs(low), abs(high), 1e-3)
    if high - low < 1e-6 * size:  # narrower than numbers on an axis can show
        low, high = low - 0.1 * size, high + 0.1 * size
    raw = (high - low) / wanted
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * one for one in (1, 2, 5, 10) if scale * one >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 12) for index in range(first, last + 1)]


def svg(height: float, parts: Sequence[str]) -> str:
    """Wrap shapes into an element that scales with the page."""
    head = f'<svg viewBox="0 0 {WIDTH} {number(height)}" role="img" xmlns="http://www.w3.org/2000/svg">'
    return head + "".join(parts) + "</svg>"


def text(x: float, y: float, words: str, tone: str, anchor: str) -> str:
    """Write a line of text; `anchor` is start, middle or end."""
    position = f'x="{number(x)}" y="{number(y)}"'
    return f'<text class="{tone}" {position} text-anchor="{anchor}">{escape(words)}</text>'


def tone(after: bool) -> str:
    """Return the class of the colour for the result, or for the source."""
    return "after" if after else "before"


def number(value: float) -> str:
    """Spell a coordinate."""
    return f"{value:.1f}".removesuffix(".0")
