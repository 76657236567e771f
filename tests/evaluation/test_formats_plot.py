import sys
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strop.blockfp import FORMATS
from strop.errors import StropError
from strop.evaluation import CheckResult, FormatRow, plot_formats
from strop.evaluation import formats_plot as module
from strop.evaluation.formats_plot import FAMILIES, family_of, frontier, shared_area
from strop.stats import Interval


def row(name, bits, kl, activations=None):
    one = Interval(1.0, 1.0, 1.0, 16)
    interval = Interval(kl, 0.9 * kl, 1.1 * kl, 16)
    check = CheckResult(name, "dir/model", one, one, one, interval, one, 16, 512, 8176, 0)
    return FormatRow(name, activations, bits, {}, check)


def all_formats(activations):
    return [
        row(name, format.bits_per_weight, 30 * 5.0**-format.bits_per_weight, activations)
        for name, format in FORMATS.items()
    ]


def test_draws_every_format_the_same_each_time(tmp_path):
    rows = [*all_formats(None), *all_formats("bfp8")]
    plot_formats(rows, tmp_path / "a.svg")
    plot_formats(rows, tmp_path / "b.svg")
    drawing = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert drawing == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(drawing).tag.endswith("svg")
    for name in FORMATS:
        assert drawing.count(f"<!-- {name} -->") == 2
    for panel in ("weights only", "weights and activations", "model: what each number format"):
        assert panel in drawing


def test_labels_of_crowded_points_cover_neither_each_other_nor_the_points(tmp_path, monkeypatch):
    axes = []
    draw = module.place_labels
    monkeypatch.setattr(
        module, "place_labels", lambda axis, rows: axes.append(axis) or draw(axis, rows)
    )
    plot_formats(all_formats(None), tmp_path / "plot.png")
    [axis] = axes
    renderer = axis.figure.canvas.get_renderer()
    boxes = [
        tuple(text.get_window_extent(renderer).extents) for text in axis.texts if text.get_text()
    ]
    assert len(boxes) == len(FORMATS)
    for one, other in combinations(boxes, 2):
        assert shared_area(one, other) < 0.15 * shared_area(one, one)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20)), min_size=1, max_size=30))
def test_the_frontier_holds_what_nothing_smaller_beats(points):
    rows = [row("bfp4", bits, kl) for bits, kl in points]
    best = {
        (bits, kl)
        for bits, kl in points
        if not any((b <= bits and k < kl) or (b < bits and k <= kl) for b, k in points)
    }
    found = [(r.bits_per_weight, r.check.kl.estimate) for r in frontier(rows)]
    assert set(found) == best
    assert found == sorted(found)


def test_every_format_belongs_to_a_family_of_its_own_look():
    assert {family_of(name).label for name in FORMATS} == {family.label for family in FAMILIES}
    assert family_of("mxint4") is not family_of("mx4")
    assert len({(family.color, family.marker) for family in FAMILIES}) == len(FAMILIES)


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(StropError, match=r"written as \.svg or \.png"):
        plot_formats(all_formats(None), tmp_path / "plot.pdf")


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(StropError, match=r"strop\[report\]"):
        plot_formats(all_formats(None), tmp_path / "plot.svg")
    assert list(tmp_path.iterdir()) == []
