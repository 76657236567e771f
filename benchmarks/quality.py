"""What every format costs SmolLM2 on WikiText-2, beside GGUF's Q8_0 and Q4_0 of the same weights.

Reads $STROP_DATA/wikitext2_valid.txt. Rows are kept in runs/quality, so that it can be stopped.
Writes benchmarks/results/formats.json (weights only, then with quantized activations) and a plot.
The GGUF rows are quantized by the gguf library from the same float32 weights: Q4_0 with embedding
and head in Q8_0, as llama.cpp makes it.

With --missing only formats without a row in formats.json are measured, and the other rows stay.
Rows do not depend on each other: another PyTorch changes their last digits only, and another model,
text or processor is refused. What a format that has changed costs has to be measured without.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from strop import __version__
from strop.blockfp import Format
from strop.data import read_json, read_text, sha256_json, write_json
from strop.evaluation import (
    CheckResult,
    FormatRow,
    check,
    compare_formats,
    default_plans,
    plot_formats,
)
from strop.evaluation.formats import quantized_inputs
from strop.models import load, tensor_kind
from strop.models.environment import environment
from strop.stats import Interval

RESULTS = Path(__file__).parent / "results"
MODEL = "smollm2"
#: name -> types of linear layers, and of embedding and head
BASELINES = {"GGUF Q8_0": ("Q8_0", "Q8_0"), "GGUF Q4_0": ("Q4_0", "Q8_0")}

Row = dict[str, Any]  #: column -> value


@dataclass(frozen=True)
class Bench:
    """What a row is measured on."""

    source: Any  #: the model, on the torch backend
    text: str
    tokens: int  #: most of the text
    output: Path  #: directory in which rows are kept

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Bench:
        """Load the model and the text."""
        text = read_text(Path(os.environ["STROP_DATA"]) / "wikitext2_valid.txt")
        return cls(load(MODEL), text, arguments.tokens, arguments.output)

    def row(
        self, name: str, make: Callable[[], tuple[Any, float]], inputs: Format | None = None
    ) -> Row:
        """Return the row of a model that `make` returns with its bits per weight, once measured.

        With `inputs` the inputs of its linear layers go through that format.
        """
        key = sha256_json([__version__, name, self.source.fingerprint, self.text, self.tokens])
        path = self.output / f"{name.replace(' ', '-').strip('-')}-{key[:12]}.json"
        if not path.exists():
            candidate, bits = make()
            with quantized_inputs(candidate.network, inputs):
                result = check(candidate, self.source, self.text, self.tokens)
            write_json(path, columns(name, inputs.name if inputs else None, bits, result))
        row: Row = read_json(path)
        return row


def columns(name: str, inputs: str | None, bits: float, result: CheckResult) -> Row:
    """Lay out what was measured."""
    return {
        "weights": name,
        "activations": inputs or "float32",
        "bits per weight": round(bits, 3),
        "perplexity": result.perplexity.estimate,
        "change in %": result.difference.to_json(),
        "KL in nats": result.kl.to_json(),
        "same top token": result.agreement.to_json(),
    }


def drawn(row: Row, check: CheckResult) -> FormatRow:
    """Return a row as the plot takes it; `check` is that of any format on the same text."""
    inputs = None if row["activations"] == "float32" else row["activations"]
    check = replace(check, kl=Interval(**row["KL in nats"]))
    return FormatRow(row["weights"], inputs, row["bits per weight"], {}, check)


def gguf_model(name: str) -> tuple[Any, float]:
    """Return the model with weights quantized as GGUF would, and its bits per weight."""
    import torch
    from gguf import GGMLQuantizationType, quants

    candidate: Any = load(MODEL)
    linear, embedding = (GGMLQuantizationType[kind] for kind in BASELINES[name])
    bits = weights = 0
    with torch.no_grad():
        for parameter_name, parameter in candidate.network.named_parameters():
            weights += parameter.numel()
            if parameter.ndim != 2:
                bits += 32 * parameter.numel()
                continue
            kind = embedding if tensor_kind(parameter_name) in ("embedding", "head") else linear
            packed = quants.quantize(parameter.numpy(), kind)
            bits += 8 * packed.nbytes
            parameter.copy_(torch.from_numpy(quants.dequantize(packed, kind).astype(np.float32)))
    return candidate, bits / weights


def parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """Build the parser of what a `Bench` needs."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--tokens", type=int, default=12288)
    result.add_argument("--output", type=Path, default=Path(output))
    return result


def main() -> None:
    options = parser(__doc__, "runs/quality")
    options.add_argument("--missing", action="store_true", help="keep the rows of formats.json")
    arguments = options.parse_args()
    before = read_json(RESULTS / "formats.json") if arguments.missing else {"rows": []}
    measured = {row["weights"] for row in before["rows"]}
    names = [name for name in default_plans() if name not in measured]
    if not names:
        sys.exit("formats.json has a row of every format")
    bench = Bench.from_arguments(arguments)
    rows = compare_formats(bench.source, names, bench.text, bench.output, bench.tokens)
    first = rows[0].check
    on = {
        "model": "SmolLM2-135M-Instruct, whose own linear weights sit on a 4-bit grid",
        "text": f"WikiText-2 validation, n = {first.chunks} chunks, {first.tokens} tokens, "
        f"perplexity of the source {first.source_perplexity.estimate:.2f}",
        "machine": {"processor": environment()["processor"], "backend": "torch, float32"},
    }
    if arguments.missing and on != {key: before[key] for key in on}:
        sys.exit(f"formats.json was not measured on {on}: measure all, without --missing")
    table = before["rows"]
    table += [columns(r.format, r.activations, r.bits_per_weight, r.check) for r in rows]
    table += [bench.row(n, partial(gguf_model, n)) for n in BASELINES if n not in measured]
    table.sort(key=lambda row: (row["activations"] != "float32", row["bits per weight"]))
    result = {
        "name": "formats",
        "title": "what each format costs; all intervals 95%, paired over chunks of text",
        **on,
        "rows": table,
    }
    write_json(RESULTS / "formats.json", result)
    formats = [drawn(row, first) for row in table if row["weights"] not in BASELINES]
    plot_formats(formats, RESULTS / "formats.svg")
    plain = {r["weights"]: r["change in %"] for r in table if r["activations"] == "float32"}
    print("RESULT " + json.dumps({name: value["estimate"] for name, value in plain.items()}))


if __name__ == "__main__":
    main()
