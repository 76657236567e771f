"""What calibrating gives at the same bits: SmolLM2 on WikiText-2, activations in 8 bits.

Reads $STROP_DATA/wikitext2_valid.txt, and the plain rows from benchmarks/results/formats.json,
which are measured on the same pieces of it. Packed models and rows are kept in runs/calibration, so
that it can be stopped. Writes benchmarks/results/calibration.json. The calibration text is the
model's own.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from quality import MODEL, RESULTS, Bench, parser
from strop.blockfp import get_format
from strop.data import read_json, write_json
from strop.models import load, pack
from strop.models.environment import environment

#: rows that are measured: name -> options of `pack`
CALIBRATED: dict[str, dict[str, Any]] = {
    "--bits 5.35": {"format": None, "bits": 5.35},
    "bfp5, calibrated": {"format": "bfp5", "calibrate": True},
    "--bits 4.75": {"format": None, "bits": 4.75},
    "bfp4, calibrated": {"format": "bfp4", "calibrate": True},
}
#: rows that are taken from formats.json: weights, activations
PLAIN = (("bfp4", "bfp8"), ("bfp4+bfp6", "bfp8"), ("bfp5", "bfp8"), ("GGUF Q4_0", "float32"))


def calibrated_model(name: str, bench: Bench) -> tuple[Any, float]:
    """Return the packed model on the torch backend, and its bits per weight."""
    directory = bench.output / name.replace(" ", "-").strip("-")
    if not directory.exists():
        pack(MODEL, output=directory, **CALIBRATED[name])
    return load(str(directory), backend="torch"), stored_bits(directory, bench.source)


def stored_bits(directory: Path, source: Any) -> float:
    """Return the bits per weight of a packed model, header of the file aside."""
    path = directory / "model.safetensors"
    with path.open("rb") as stream:
        header = 8 + int.from_bytes(stream.read(8), "little")
    weights: int = sum(parameter.numel() for parameter in source.network.parameters())
    return 8 * (path.stat().st_size - header) / weights


def main() -> None:
    """Measure what is not measured yet, and write the table."""
    bench = Bench.from_arguments(parser(__doc__, "runs/calibration").parse_args())
    formats = read_json(RESULTS / "formats.json")
    table = [row for row in formats["rows"] if (row["weights"], row["activations"]) in PLAIN]
    for name in CALIBRATED:
        make = partial(calibrated_model, name, bench)
        table.append(bench.row(name, make, inputs=get_format("bfp8")))
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
