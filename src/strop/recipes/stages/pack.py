"""The stage `pack`: weights into a smaller number format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from strop.console import quantity
from strop.data import read_text
from strop.errors import StropError
from strop.recipes.options import FormatName, ModelReference, TensorFormat, TextFile, label
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
from strop.svg import Bar, bars

OUTPUT = "model"  # directory of the packed model
DEFAULT_FORMAT = FormatName("bfp5")


@dataclass(frozen=True)
class PackOptions:
    """What to pack, and how."""

    model: ModelReference  #: the model to pack
    format: FormatName | None = None  #: number format of the matrices; without `bits` it is bfp5
    #: pattern of tensor names to a format or "keep"; the last one that matches holds
    overrides: dict[str, TensorFormat] = field(default_factory=dict)
    calibrate: bool = False  #: make up for rounding errors, on text that the model writes itself
    text: TextFile | None = None  #: calibrate on this text instead
    bits: float | None = None  #: per weight, spent where they help most; calibrates

    def __post_init__(self) -> None:
        """Raise StropError for a format and a number of bits at once."""
        if self.format is not None and self.bits is not None:
            raise StropError("give a format or a number of bits, not both")

    @property
    def chosen_format(self) -> FormatName | None:
        """Return the format of the matrices, None if it follows from the bits."""
        return DEFAULT_FORMAT if self.format is None and self.bits is None else self.format

    @property
    def goal(self) -> str:
        """Return what is packed into."""
        return str(self.chosen_format) if self.bits is None else f"{self.bits:g} bits per weight"


def run(options: PackOptions, context: Context) -> Metrics:
    """Pack the model into the stage's directory; sizes in bytes, signal-to-noise in decibel."""
    from strop.models import by_kind, pack

    summary = pack(
        options.model,
        options.chosen_format,
        context.directory / OUTPUT,
        options.overrides,
        calibrate=options.calibrate,
        text=read_text(Path(options.text)) if options.text else None,
        bits=options.bits,
    )
    return {
        "weights": summary.weights,
        "bits_per_weight": summary.bits_per_weight,
        "source_bytes": summary.source_bytes,
        "packed_bytes": summary.packed_bytes,
        "calibration_tokens": summary.calibration_tokens,
        "kinds": [asdict(row) for row in by_kind(summary)],
    }


def describe(options: PackOptions) -> str:
    """Say what the stage does."""
    return f"pack {label(options.model)} as {options.goal}"


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
            "ratio compares the packed weights with the source's, averaged over the weights of a "
            "kind.",
        ),
    )


def ratio(metrics: Metrics) -> float:
    """Return how many times smaller the packed model is."""
    return float(metrics["source_bytes"] / metrics["packed_bytes"])


def sentence(stage: Finished) -> str:
    """Sum up one pack."""
    m = stage.metrics
    before = f"{quantity(m['source_bytes'], 'B')} ({source_bits(m):.0f}-bit weights)"
    tokens = m.get("calibration_tokens", 0)
    calibrated = f", calibrated on {tokens:,} tokens," if tokens else ""
    return (
        f"Packing {label(stage.options.model)} as {stage.options.goal}{calibrated} took it from "
        f"{before} to {quantity(m['packed_bytes'], 'B')}: "
        f"{m['bits_per_weight']:.2f} bits per weight over all {m['weights'] / 1e6:.1f} million "
        "weights."
    )


def source_bits(metrics: Metrics) -> float:
    """Return the bits per weight of the source."""
    return float(8 * metrics["source_bytes"] / metrics["weights"])


def tiles(stage: Finished) -> tuple[Tile, Tile]:
    """Return the factor in size and the bits per weight."""
    m = stage.metrics
    return (
        Tile(f"{ratio(m):.1f} x", f"{stage.name}: smaller than {source_bits(m):.0f}-bit weights"),
        Tile(f"{m['bits_per_weight']:.2f} bits", f"{stage.name}: per weight, over all weights"),
    )


def headline(stage: Finished, several: bool) -> tuple[Headline, ...]:
    """Return the size and the bits per weight; `several` stages need their names."""
    m = stage.metrics
    name = f" ({stage.name})" if several else ""
    before = source_bits(m)
    return (
        Headline(
            f"Size{name}",
            quantity(m["source_bytes"], "B"),
            quantity(m["packed_bytes"], "B"),
            f"{100 * (m['packed_bytes'] / m['source_bytes'] - 1):+.1f}%",
            f"{ratio(m):.1f} times smaller than {before:.0f}-bit weights",
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
    kinds = stage.metrics["kinds"]
    count = Counter(row["kind"] for row in kinds)
    stored, bits, noise = [], [], []
    for row in kinds:
        if row["snr_db"] is None:
            continue
        name = row["kind"] if count[row["kind"]] == 1 else f"{row['kind']} {row['format']}"
        size = row["weights"] * row["bits"] / 8
        stored.append(Bar(name, size, quantity(size, "B")))
        bits.append(Bar(name, row["bits"], f"{row['bits']:.2f}"))
        noise.append(Bar(name, max(row["snr_db"], 0.0), f"{row['snr_db']:.1f} dB"))
    return (
        Figure(f"{stage.name}: size by kind of tensor", bars(stored)),
        Figure(f"{stage.name}: bits per weight by kind of tensor", bars(bits)),
        Figure(f"{stage.name}: signal-to-noise ratio by kind of tensor", bars(noise)),
    )


def kind_table(stage: Finished) -> Table:
    """Tabulate the kinds of tensors."""
    columns = (f"{stage.name}: kind", "Format", "Tensors", "Weights", "Bits per weight", "SNR")
    rows = tuple(
        (
            row["kind"],
            row["format"],
            f"{row['tensors']}",
            f"{row['weights']:,}",
            f"{row['bits']:.2f}",
            "exact" if row["snr_db"] is None else f"{row['snr_db']:.1f} dB",
        )
        for row in stage.metrics["kinds"]
    )
    return Table(columns, rows)


PACK = Stage(PackOptions, run, describe, section, Output(OUTPUT, ModelReference))
