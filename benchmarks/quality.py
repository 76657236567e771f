"""What every format costs SmolLM2 on WikiText-2, beside GGUF's Q8_0 and Q4_0 of the same weights.

Reads $STROP_DATA/wikitext2_valid.txt. Rows are kept in runs/quality, so that it can be stopped.
Writes benchmarks/results/formats.json (weights only, then with quantized activations) and a plot.
The GGUF rows are quantized by the gguf library from the same float32 weights: Q4_0 with embedding
and head in Q8_0, as llama.cpp makes it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from strop.data import read_json, read_text, sha256_json, write_json
from strop.evaluation import CheckResult, check, compare_formats, default_plans, plot_formats
from strop.models import Model, load, tensor_kind
from strop.recipes.environment import environment

RESULTS = Path(__file__).parent / "results"
MODEL = "smollm2"
#: name -> types of linear layers, and of embedding and head
BASELINES = {"GGUF Q8_0": ("Q8_0", "Q8_0"), "GGUF Q4_0": ("Q4_0", "Q8_0")}


def gguf_row(
    name: str, source: Model, text: str, tokens: int, output: Path
) -> tuple[float, CheckResult]:
    """Quantize a second copy of the model as GGUF would, and check it: bits per weight, result."""
    key = sha256_json([name, source.fingerprint, text, tokens])[:12]
    path = output / f"{name.replace(' ', '-')}-{key}.json"
    if path.exists():
        row = read_json(path)
        return row["bits"], CheckResult.from_json(row["check"])
    import torch
    from gguf import GGMLQuantizationType, quants

    candidate = load(MODEL)
    network: Any = candidate.network  # type: ignore[attr-defined]
    linear, embedding = (GGMLQuantizationType[kind] for kind in BASELINES[name])
    bits = weights = 0
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            weights += parameter.numel()
            if parameter.ndim != 2:
                bits += 32 * parameter.numel()
                continue
            kind = embedding if tensor_kind(parameter_name) in ("embedding", "head") else linear
            packed = quants.quantize(parameter.numpy(), kind)
            bits += 8 * packed.nbytes
            parameter.copy_(torch.from_numpy(quants.dequantize(packed, kind).astype(np.float32)))
    result = check(candidate, source, text, tokens)
    write_json(path, {"bits": bits / weights, "check": result.to_json()})
    return bits / weights, result


def row(name: str, inputs: str, bits: float, result: CheckResult) -> dict[str, object]:
    return {
        "weights": name,
        "activations": inputs,
        "bits per weight": round(bits, 3),
        "perplexity": result.perplexity.estimate,
        "change in %": result.difference.to_json(),
        "KL in nats": result.kl.to_json(),
        "same top token": result.agreement.to_json(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=12288)
    parser.add_argument("--output", type=Path, default=Path("runs/quality"))
    arguments = parser.parse_args()
    text = read_text(Path(os.environ["STROP_DATA"]) / "wikitext2_valid.txt")
    source = load(MODEL)
    rows = compare_formats(source, default_plans(), text, arguments.output, arguments.tokens)
    table = [row(r.format, r.activations or "float32", r.bits_per_weight, r.check) for r in rows]
    for name in BASELINES:
        bits, result = gguf_row(name, source, text, arguments.tokens, arguments.output)
        table.append(row(name, "float32", bits, result))
    table.sort(key=lambda r: (r["activations"] != "float32", r["bits per weight"]))
    first = rows[0].check
    result = {
        "name": "formats",
        "title": "what each format costs; all intervals 95%, paired over chunks of text",
        "model": "SmolLM2-135M-Instruct, whose own linear weights sit on a 4-bit grid",
        "text": f"WikiText-2 validation, n = {first.chunks} chunks, {first.tokens} tokens, "
        f"perplexity of the source {first.source_perplexity.estimate:.2f}",
        "machine": {"processor": environment()["processor"], "backend": "torch, float32"},
        "rows": table,
    }
    write_json(RESULTS / "formats.json", result)
    plot_formats(rows, RESULTS / "formats.svg")
    plain = {r["weights"]: r["change in %"] for r in table if r["activations"] == "float32"}
    print("RESULT " + json.dumps({name: value["estimate"] for name, value in plain.items()}))


if __name__ == "__main__":
    main()
