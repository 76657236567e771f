"""The stage `pack`: weights into a smaller number format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from strop.console import quantity
from strop.recipes.options import FormatName, ModelReference, label
from strop.recipes.stage import (
    Context,
    Figure,
    Finished,
    Headline,
    Metrics,
    Output,
    Section,
    Stage,
    Table,
    Tile,
)
from strop.recipes.svg import Bar, bars

if TYPE_CHECKING:
    from strop.models import PackedTensor

OUTPUT = "model"  # directory of the packed model
DEFAULT_FORMAT = FormatName("bfp4")


@dataclass(frozen=True)
class PackOptions:
    """What to pack, and how."""

    model: ModelReference  #: the model to pack
    format: FormatName = DEFAULT_FORMAT  #: number format, or plan, of the weights
    overrides: dict[str, FormatName] = field(default_factory=dict)  #: tensor pattern to format


def run(options: PackOptions, context: Context) -> Metrics:
    """Pack the model into the stage's directory; sizes in bytes, signal-to-noise in decibel."""
    from strop.models import pack

    summary = pack(
        options.model, options.format, context.directory / OUTPUT, overrides=options.overrides
    )
    return {
        "weights": summary.weights,
        "bits_per_weight": summary.bits_per_weight,
        "source_bytes": summary.source_bytes,
        "packed_bytes": summary.packed_bytes,
        "kinds": by_kind(summary.tensors),
    }


def by_kind(tensors: Iterable[PackedTensor]) -> list[dict[str, Any]]:
    """Sum up the tensors of each kind; a kind that is kept as it was has no noise to report."""
    kinds: dict[str, list[PackedTensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.kind, []).append(tensor)
    rows = []
    for kind, members in sorted(kinds.items()):
        weights = [prod(one.shape) for one in members]
        noisy = [one.snr_db for one in members if one.snr_db is not None]
        rows.append(
            {
                "kind": kind,
                "tensors": len(members),
                "weights": sum(weights),
                "formats": sorted({one.format for one in members}),
                "bits_per_weight": sum(
                    count * one.bits_per_weight for count, one in zip(weights, members, strict=True)
                )
                / sum(weights),
                "snr_db": sum(noisy) / len(noisy) if noisy else None,
            }
        )
    return rows


def prod(shape: Iterable[int]) -> int:
    """Return the number of elements of a shape."""
    count = 1
    for size in shape:
        count *= size
    return count


def describe(options: PackOptions) -> str:
    """Say what the stage does."""
    return f"pack {label(options.model)} as {options.format}"


def section(stages: Sequence[Finished]) -> Section:
    """Report sizes, and what each kind of tensor became."""
    return Section(
        title="Size",
        summary=" ".join(map(sentence, stages)),
        tiles=tuple(tile for stage in stages for tile in tiles(stage)),
        headline=tuple(row for stage in stages for row in headline(stage, len(stages) > 1)),
        figures=(sizes(stages), *(figure for stage in stages for figure in kind_figures(stage))),
        tables=tuple(map(kind_table, stages)),
        notes=(
            "Bits per weight count everything that is stored for the weights, scales included, "
            "over all weights of the model, embedding and norms included. The signal-to-noise "
            "ratio compares the packed weights with the source's, averaged over the tensors of a "
            "kind.",
        ),
    )


def ratio(metrics: Metrics) -> float:
    """Return how many times smaller the packed model is."""
    return float(metrics["source_bytes"] / metrics["packed_bytes"])


def sentence(stage: Finished) -> str:
    """Sum up one pack."""
    m = stage.metrics
    return (
        f"Packing {label(stage.options.model)} as {stage.options.format} took it from "
        f"{quantity(m['source_bytes'], 'B')} to {quantity(m['packed_bytes'], 'B')}: "
        f"{m['bits_per_weight']:.2f} bits per weight over all {m['weights'] / 1e6:.1f} million "
        "weights."
    )


def tiles(stage: Finished) -> tuple[Tile, Tile]:
    """Return the factor in size and the bits per weight."""
    m = stage.metrics
    change = f"{quantity(m['source_bytes'], 'B')} to {quantity(m['packed_bytes'], 'B')}"
    return (
        Tile(f"{ratio(m):.1f} x", f"{stage.name}: smaller, {change}"),
        Tile(f"{m['bits_per_weight']:.2f} bits", f"{stage.name}: per weight, over all weights"),
    )


def headline(stage: Finished, several: bool) -> tuple[Headline, ...]:
    """Return the size and the bits per weight; `several` stages need their names."""
    m = stage.metrics
    name = f" ({stage.name})" if several else ""
    before = 8 * m["source_bytes"] / m["weights"]
    return (
        Headline(
            f"Size{name}",
            quantity(m["source_bytes"], "B"),
            quantity(m["packed_bytes"], "B"),
            f"{100 * (m['packed_bytes'] / m['source_bytes'] - 1):+.1f}%",
            f"{ratio(m):.1f} times smaller",
        ),
        Headline(
            f"Bits per weight{name}",
            f"{before:.2f}",
            f"{m['bits_per_weight']:.2f}",
            f"{m['bits_per_weight'] - before:+.2f}",
            "over all weights",
        ),
    )


def sizes(stages: Sequence[Finished]) -> Figure:
    """Plot each source once and each packed model."""
    rows: dict[tuple[str, bool], Bar] = {}
    for stage in stages:
        source, m = label(stage.options.model), stage.metrics
        if (source, False) not in rows:
            text = quantity(m["source_bytes"], "B")
            rows[source, False] = Bar(source, m["source_bytes"], text, after=False)
        text = quantity(m["packed_bytes"], "B")
        rows[stage.name, True] = Bar(stage.name, m["packed_bytes"], text)
    return Figure("Size of the weights before and after", bars(list(rows.values())))


def kind_figures(stage: Finished) -> tuple[Figure, ...]:
    """Plot bytes, bits per weight and signal-to-noise of each kind of tensor that was packed."""
    bytes_, bits, noise = [], [], []
    for k in stage.metrics["kinds"]:
        if k["snr_db"] is None:
            continue
        stored = k["weights"] * k["bits_per_weight"] / 8
        bytes_.append(Bar(k["kind"], stored, quantity(stored, "B")))
        bits.append(Bar(k["kind"], k["bits_per_weight"], f"{k['bits_per_weight']:.2f}"))
        noise.append(Bar(k["kind"], max(k["snr_db"], 0.0), f"{k['snr_db']:.1f} dB"))
    return (
        Figure(f"{stage.name}: size by kind of tensor", bars(bytes_)),
        Figure(f"{stage.name}: bits per weight by kind of tensor", bars(bits)),
        Figure(f"{stage.name}: signal-to-noise ratio by kind of tensor", bars(noise)),
    )


def kind_table(stage: Finished) -> Table:
    """Tabulate the kinds of tensors."""
    columns = (f"{stage.name}: kind", "Tensors", "Weights", "Format", "Bits per weight", "SNR")
    rows = tuple(
        (
            k["kind"],
            f"{k['tensors']}",
            f"{k['weights']:,}",
            ", ".join(k["formats"]),
            f"{k['bits_per_weight']:.2f}",
            "exact" if k["snr_db"] is None else f"{k['snr_db']:.1f} dB",
        )
        for k in stage.metrics["kinds"]
    )
    return Table(columns, rows)


PACK = Stage(PackOptions, run, describe, section, Output(OUTPUT, ModelReference))
