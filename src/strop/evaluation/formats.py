"""All number formats on one model: bits, signal-to-noise, and what each costs in quality.

Every matrix of the network (embedding and head included, biases and norms not) is quantized and
dequantized in place, the model is measured against itself before, and the weights are put back. A
plan such as bfp4+bfp6 takes its second format for embedding and head. With
activations, the inputs of every linear layer go through a format as well: a published format
through itself, one of Strop's own through bfp8, as its engine does. Attention between activations
stays in float32.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strop import __version__
from strop.blockfp import FORMATS, Format, dequantize, get_format, quantize
from strop.console import progress, say
from strop.data import atomic_path, make_directory, read_json, remove, sha256_json, write_json
from strop.errors import StropError
from strop.evaluation.check import (
    CheckResult,
    LogProbabilities,
    contexts,
    log_probabilities,
    measure,
    summarize,
)
from strop.models import Model, Plan, tensor_kind
from strop.stats import Interval

MIXED = ("bfp4+bfp6",)  #: plans that are compared beside the formats


def activation_format(plan: Plan) -> Format:
    """Return the format that activations take beside these weights."""
    return get_format("bfp8") if plan.format.name.startswith("bfp") else plan.format


def default_plans() -> list[str]:
    """Return the names of all formats and some plans of two."""
    return [*FORMATS, *MIXED]


@dataclass(frozen=True)
class FormatRow:
    """One format, or plan of two, measured on one model."""

    format: str  #: of the weights
    activations: str | None  #: format of the inputs of linear layers; None: left in float32
    bits_per_weight: float  #: over all weights of the model
    snr_db: dict[str, float]  #: signal-to-noise of the weights by kind of tensor, in decibels
    check: CheckResult  #: the quantized model against the model itself

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self) | {"check": self.check.to_json()}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> FormatRow:
        """Return the row that `to_json` wrote."""
        return cls(**row | {"check": CheckResult.from_json(row["check"])})


def compare_formats(
    model: Model,
    names: Sequence[str],
    text: str,
    output: Path,
    tokens: int = 8192,
    chunk: int = 512,
    activations: bool = True,
    seed: int = 0,
) -> list[FormatRow]:
    """Measure each plan on a model of the torch backend: weights only, then with activations.

    Every row is saved in `output` as soon as it is measured and taken from there the next time, so
    that a comparison which was stopped goes on where it was. While it runs, `output` also holds the
    source's log-probabilities (4 bytes * tokens * vocabulary). Raises StropError for an unknown
    format and as `check` does.
    """
    plans = [Plan.parse(name) for name in names]
    network = getattr(model, "network", None)
    if network is None:
        raise StropError(f"{model.name}: comparing formats needs the torch backend")
    chunks = contexts(model, model, text, tokens, chunk)
    measured_on = sha256_json([__version__, model.name, model.fingerprint, chunks, seed])
    jobs = [
        (output / row_name(plan, inputs, measured_on), plan, inputs)
        for plan in plans
        for inputs in ([None, activation_format(plan)] if activations else [None])
    ]
    make_directory(output)
    missing = [job for job in jobs if not job[0].exists()]
    store = output / f"source-{measured_on[:12]}"
    for done, (path, plan, inputs) in enumerate(missing):
        suffix = f" with {inputs.name} activations" if inputs else ""
        say(f"[{done + 1}/{len(missing)}] {plan.name}{suffix}")
        source = stored_log_probabilities(model, chunks, store)
        with quantized_weights(network, plan) as weights, quantized_inputs(network, inputs):
            rows = measure(model, chunks, source, label=plan.name)
        check = summarize(rows, plan.name, model.name, chunk, seed)
        row = FormatRow(
            plan.name, inputs.name if inputs else None, weights.bits, weights.snr_db(), check
        )
        write_json(path, row.to_json())
    remove(store)
    return [read_row(path) for path, _, _ in jobs]


def read_row(path: Path) -> FormatRow:
    """Read a row that was measured before."""
    try:
        return FormatRow.from_json(read_json(path))
    except (TypeError, KeyError) as error:
        raise StropError(f"{path}: not a row of a comparison: remove it") from error


def write_csv(rows: Sequence[FormatRow], path: Path) -> None:
    """Write a comparison as CSV: one line per row, each interval as three columns."""
    kinds = sorted({kind for row in rows for kind in row.snr_db})
    measures = ("perplexity", "source_perplexity", "difference", "kl", "agreement")
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            [
                *("format", "activations", "bits_per_weight"),
                *(f"snr_db_{kind}" for kind in kinds),
                *(f"{measure}{end}" for measure in measures for end in ("", "_low", "_high")),
                *("chunks", "tokens"),
            ]
        )
        for row in rows:
            intervals: list[Interval] = [getattr(row.check, measure) for measure in measures]
            writer.writerow(
                [
                    *(row.format, row.activations or "float32", row.bits_per_weight),
                    *(row.snr_db.get(kind, "inf") for kind in kinds),
                    *(end for i in intervals for end in (i.estimate, i.low, i.high)),
                    *(row.check.chunks, row.check.tokens),
                ]
            )


def row_name(plan: Plan, inputs: Format | None, measured_on: str) -> str:
    """Return the name of a row's file; it changes with everything that the row depends on."""
    key = sha256_json([repr(plan), repr(inputs), measured_on])
    return f"{plan.name}-{'activations' if inputs else 'weights'}-{key[:12]}.json"


def stored_log_probabilities(
    model: Model, chunks: Sequence[Sequence[int]], directory: Path
) -> Iterator[LogProbabilities]:
    """Compute the log-probabilities of every chunk on the first call; read them afterwards."""
    paths = [directory / f"{index:05d}.npy" for index in range(len(chunks))]
    missing = [pair for pair in zip(chunks, paths, strict=True) if not pair[1].exists()]
    with progress(f"reading {model.name}", sum(len(c) for c, _ in missing), "tokens") as advance:
        for context, path in missing:
            with atomic_path(path) as partial:
                np.save(partial, log_probabilities(model, context))
            advance(len(context))
    return (np.load(path, allow_pickle=False) for path in paths)


class Damage:
    """What quantizing did to the weights of a network: power of signal and noise, and bits."""

    def __init__(self) -> None:
        self.signal: defaultdict[str, float] = defaultdict(float)
        self.noise: defaultdict[str, float] = defaultdict(float)
        self.stored_bits = 0
        self.weights = 0

    @property
    def bits(self) -> float:
        """Return the bits per weight over all weights."""
        return self.stored_bits / self.weights

    def snr_db(self) -> dict[str, float]:
        """Return 10 log10(signal / noise) by kind of tensor, without kinds that are exact."""
        return {
            kind: 10.0 * math.log10(self.signal[kind] / noise)
            for kind, noise in self.noise.items()
            if noise > 0.0
        }


@contextmanager
def quantized_weights(network: Any, plan: Plan) -> Iterator[Damage]:
    """Quantize and dequantize every matrix of a torch network; put the weights back at the end.

    A matrix used twice (a tied head) is quantized once. What is no matrix stays, as float32.
    """
    import torch

    damage = Damage()
    originals: list[tuple[Any, Any]] = []
    try:
        for name, parameter in network.named_parameters():
            damage.weights += parameter.numel()
            kind = tensor_kind(name)
            if parameter.ndim != 2 or kind == "norm":
                damage.stored_bits += 32 * parameter.numel()
                continue
            originals.append((parameter, parameter.detach().clone()))
            before = parameter.detach().float().numpy()
            packed = quantize(before, plan.of(kind))
            after = dequantize(packed)
            damage.stored_bits += 8 * packed.nbytes
            damage.signal[kind] += power(before)
            damage.noise[kind] += power(before - after)
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(after))
        yield damage
    finally:
        with torch.no_grad():
            for parameter, original in originals:
                parameter.copy_(original)


@contextmanager
def quantized_inputs(network: Any, format: Format | None) -> Iterator[None]:
    """Quantize and dequantize what every linear layer of a torch network reads, if in a format."""
    if format is None:
        yield
        return
    import torch

    def through_format(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        values = dequantize(quantize(inputs[0].float().numpy(), format))
        return (torch.from_numpy(values).to(inputs[0].dtype), *inputs[1:])

    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    hooks = [layer.register_forward_pre_hook(through_format) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def power(values: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Return the sum of squares, added in float64."""
    return float(np.sum(np.square(values), dtype=np.float64))
