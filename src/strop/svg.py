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
LETTER = 6.6  # about the width of one of their letters
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
    left = max(float(LABEL), 24 + LETTER * max(len(row.label) for row in rows))
    width = WIDTH + left - LABEL  # the more, the longer the labels are
    right = width - 24

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
            text(left - 12, y + 4, row.label, "muted", "end"),
            f'<line class="whisker {tone(row.after)}" x1="{number(low)}" y1="{y}" '
            f'x2="{number(high)}" y2="{y}"/>',
            f'<circle class="{tone(row.after)}" cx="{number(middle)}" cy="{y}" r="5.5"/>',
            text(x_text, y - 12, row.text, "ink", anchor),
        ]
    parts.append(text(right, bottom + 36, unit, "muted", "end"))
    return svg(bottom + 42, parts, width)


@dataclass(frozen=True)
class Line:
    """One line of a line plot."""

    label: str  #: at its end
    points: tuple[tuple[float, float], ...]  #: (x, y), by x
    after: bool = True  #: colour: the result, or the source
    dashed: bool = False


PLOT = 150  # height of one line plot


def lines(plots: Sequence[tuple[str, Sequence[Line]]], unit: str) -> str:
    """Draw line plots one below the other, each with its title, over one kind of x in `unit`."""
    parts: list[str] = []
    for index, (title, drawn) in enumerate(plots):
        parts += one_plot(title, drawn, index * (PLOT + 62) + 24)
    height = len(plots) * (PLOT + 62)
    parts.append(text(WIDTH - 24, height + 2, unit, "muted", "end"))
    return svg(height + 12, parts)


def one_plot(title: str, drawn: Sequence[Line], top: float) -> list[str]:
    """Return the shapes of one plot, from `top` down."""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    columns, rows = ticks(min(xs), max(xs)), ticks(min(ys), max(ys), 3)
    left, right, bottom = 54.0, float(WIDTH - 24), top + PLOT

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (right - left) * (x - columns[0]) / (columns[-1] - columns[0]),
            bottom - PLOT * (y - rows[0]) / (rows[-1] - rows[0]),
        )

    parts = [text(left, top - 8, title, "ink", "start")]
    for tick in rows:
        y = place(columns[0], tick)[1]
        parts += [
            f'<line class="grid" x1="{number(left)}" y1="{number(y)}" '
            f'x2="{number(right)}" y2="{number(y)}"/>',
            text(left - 6, y + 4, f"{tick:g}", "muted", "end"),
        ]
    parts += [text(place(t, rows[0])[0], bottom + 18, f"{t:g}", "muted", "middle") for t in columns]
    for order, line in enumerate(drawn):
        corners = " ".join(
            f"{number(x)},{number(y)}" for x, y in (place(*point) for point in line.points)
        )
        dash = ' stroke-dasharray="5 3"' if line.dashed else ""
        parts.append(
            f'<polyline class="line {tone(line.after)}" points="{corners}" fill="none"{dash}/>'
        )
        parts.append(text(right, top + 14 + 15 * order, line.label, tone(line.after), "end"))
    return parts


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


def svg(height: float, parts: Sequence[str], width: float = WIDTH) -> str:
    """Wrap shapes into an element that scales with the page."""
    box = f'viewBox="0 0 {number(width)} {number(height)}"'
    head = f'<svg {box} role="img" xmlns="http://www.w3.org/2000/svg">'
    return head + "".join(parts) + "</svg>"


def standalone(element: str) -> str:
    """Return an element as a file of its own, with the colours that a page would give it."""
    style = (
        "<style>svg{background:#fff;font:12px sans-serif}.ink{fill:#1b1b1b}.muted{fill:#6b6b6b}"
        ".grid{stroke:#ddd}.before{fill:#8a8f98}.after{fill:#1a6fb0}"
        ".line{stroke-width:1.5;fill:none}.line.before{stroke:#8a8f98}.line.after{stroke:#1a6fb0}"
        ".reference{stroke:#6b6b6b;stroke-width:1.5;stroke-dasharray:5 4}"
        ".whisker{stroke-width:4;stroke-linecap:round}"
        ".whisker.before{stroke:#8a8f98}.whisker.after{stroke:#1a6fb0}"
        "</style>"
    )
    head, _, tail = element.partition(">")
    return f"{head}>{style}{tail}\n"


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
