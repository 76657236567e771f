"""What calibrating gives at the same bits: SmolLM2 on WikiText-2, activations in 8 bits.

Reads $STROP_DATA/wikitext2_valid.txt, and the plain rows from benchmarks/results/formats.json,
which are measured on the same pieces of it. Packed models and rows are kept in runs/calibration, so
that it can be stopped. Writes benchmarks/results/calibration.json. The calibration text is the
model's own.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from strop.blockfp import get_format
from strop.data import read_json, read_text, write_json
from strop.evaluation import CheckResult
from strop.evaluation.check import contexts, measure, summarize
from strop.evaluation.formats import quantized_inputs, stored_log_probabilities
from strop.models import load, pack
from strop.recipes.environment import environment

RESULTS = Path(__file__).parent / "results"
MODEL = "smollm2"
CHUNK = 512
#: rows that are measured: name -> options of `pack`
CALIBRATED: dict[str, dict[str, Any]] = {
    "--bits 5.35": {"format": None, "bits": 5.35},
    "bfp5, calibrated": {"format": "bfp5", "calibrate": True},
    "--bits 4.75": {"format": None, "bits": 4.75},
    "bfp4, calibrated": {"format": "bfp4", "calibrate": True},
}
#: rows that are taken from formats.json: weights, activations
PLAIN = (("bfp4", "bfp8"), ("bfp4+bfp6", "bfp8"), ("bfp5", "bfp8"), ("GGUF Q4_0", "float32"))


def measured(name: str, source: Any, text: str, tokens: int, output: Path) -> dict[str, Any]:
    """Pack the model and measure it with quantized activations; return the row."""
    directory = output / name.replace(" ", "-").strip("-")
    path = directory.parent / f"{directory.name}.json"
    if path.exists():
        row: dict[str, Any] = read_json(path)
        return row
    if not directory.exists():
        pack(MODEL, output=directory, **CALIBRATED[name])
    candidate: Any = load(str(directory), backend="torch")
    chunks = contexts(candidate, source, text, tokens, CHUNK)
    wanted = stored_log_probabilities(source, chunks, output / "source")
    with quantized_inputs(candidate.network, get_format("bfp8")):
        rows = measure(candidate, chunks, wanted, label=name)
    result = summarize(rows, name, source.name, CHUNK, seed=0)
    row = {
        "weights": name,
        "activations": "bfp8",
        "bits per weight": stored_bits(directory, source),
    }
    row |= columns(result)
    write_json(path, row)
    return row


def stored_bits(directory: Path, source: Any) -> float:
    """Return the bits per weight of a packed model, header of the file aside."""
    path = directory / "model.safetensors"
    with path.open("rb") as stream:
        header = 8 + int.from_bytes(stream.read(8), "little")
    weights = sum(parameter.numel() for parameter in source.network.parameters())
    return round(8 * (path.stat().st_size - header) / weights, 3)


def columns(result: CheckResult) -> dict[str, Any]:
    """Return the measured columns of a row."""
    return {
        "perplexity": result.perplexity.estimate,
        "change in %": result.difference.to_json(),
        "KL in nats": result.kl.to_json(),
        "same top token": result.agreement.to_json(),
    }


def main() -> None:
    """Measure what is not measured yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=12288)
    parser.add_argument("--output", type=Path, default=Path("runs/calibration"))
    arguments = parser.parse_args()
    text = read_text(Path(os.environ["STROP_DATA"]) / "wikitext2_valid.txt")
    source = load(MODEL)
    formats = read_json(RESULTS / "formats.json")
    table = [row for row in formats["rows"] if (row["weights"], row["activations"]) in PLAIN]
    for name in CALIBRATED:
        table += [measured(name, source, text, arguments.tokens, arguments.output)]
    table.sort(key=lambda row: (row["bits per weight"], -row["perplexity"]))
    result = formats | {
        "name": "calibration",
        "title": "what calibrating gives; all intervals 95%, paired over chunks of text",
        "machine": {"processor": environment()["processor"], "backend": "torch, float32"},
        "rows": table,
    }
    write_json(RESULTS / "calibration.json", result)
    print("RESULT " + json.dumps({row["weights"]: row["perplexity"] for row in table}))


if __name__ == "__main__":
    main()
