"""Plots: well-formed, deterministic, and true to their numbers."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from strop.svg import LABEL, VALUE, WIDTH, Bar, Whisker, bars, standalone, ticks, whiskers

numbers = st.floats(-1e9, 1e9)


def shapes(svg: str, tag: str) -> list[dict[str, str]]:
    root = ElementTree.fromstring(svg)
    return [element.attrib for element in root.iter(f"{{http://www.w3.org/2000/svg}}{tag}")]


def test_bars_are_in_proportion() -> None:
    svg = bars([Bar("a", 10, "10", after=False), Bar("b", 5, "5"), Bar("<c>", 0, "0")])
    first, second, third = shapes(svg, "rect")
    assert float(first["width"]) == WIDTH - LABEL - VALUE
    assert float(second["width"]) == float(first["width"]) / 2
    assert float(third["width"]) == 1  # nothing is a thin line, not an empty row
    assert [first["class"], second["class"]] == ["before", "after"]


def test_whiskers_keep_their_order_on_the_axis() -> None:
    svg = whiskers([Whisker("a", 2.0, 1.0, 4.0, "2 [1, 4]")], "percent", reference=0.0)
    lines = {line["class"]: line for line in shapes(svg, "line")}
    dot = float(shapes(svg, "circle")[0]["cx"])
    whisker, zero = lines["whisker after"], lines["reference"]
    assert float(zero["x1"]) < float(whisker["x1"]) < dot < float(whisker["x2"]) <= WIDTH


@given(low=numbers, width=st.floats(0, 1e9))
def test_ticks_are_round_few_and_cover_the_range(low: float, width: float) -> None:
    high = low + width
    marks = ticks(low, high)
    steps = [after - before for before, after in pairwise(marks)]
    assert 2 <= len(marks) <= 7
    slack = 1e-9 * max(abs(low), abs(high), 1.0)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert all(math.isclose(step, steps[0], rel_tol=1e-3) for step in steps)


@given(label=st.text(max_size=20), value=st.floats(0, 1e12))
def test_any_label_gives_well_formed_xml(label: str, value: float) -> None:
    text = "".join(c for c in label if c.isprintable())
    assert shapes(bars([Bar(text, value, text)]), "rect")
    assert shapes(whiskers([Whisker(text, value, value, value, text)], text), "circle")


def test_long_labels_have_room() -> None:
    label = "complexity x quality (DEITA)"
    svg = whiskers([Whisker(label, 2.0, 1.0, 4.0, "2 [1, 4]")], "nats")
    width = float(svg.split('viewBox="0 0 ')[1].split()[0])
    [end] = [float(one["x"]) for one in shapes(svg, "text") if one["text-anchor"] == "end"][:1]
    assert end > 6.5 * len(label)
    assert width - end > WIDTH - LABEL


def test_a_file_of_its_own_shows_intervals() -> None:
    svg = standalone(whiskers([Whisker("a", 2.0, 1.0, 4.0, "2 [1, 4]")], "nats", 0.0))
    used = {name for line in shapes(svg, "line") for name in line["class"].split()}
    style = svg.partition("<style>")[2].partition("</style>")[0]
    assert used == {"grid", "reference", "whisker", "after"}
    assert all(f".{name}" in style for name in used)
