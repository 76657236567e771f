"""Every choice of `strop eval` beside that of lm-evaluation-harness, on the same prompts.

Twice: the harness runs the same weights by transformers in float32, where Strop runs them on
PyTorch; and the harness drives a packed model of ours by the adapter in strop.evaluation.harness,
beside `strop eval` on that model. The harness has an environment of its own (.venv-peers), and
tasks that are written from ours. Both choose by the log-probability of an answer, and by that of a
letter. Writes benchmarks/results/evaluation.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine_models import HERE
from strop.console import say
from strop.data import make_directory, read_json, read_rows, write_json, write_rows, write_text
from strop.evaluation.evaluate import SAMPLES, evaluate
from strop.models import resolve
from strop.models.environment import environment
from strop.models.packing import pack
from tables import table

MODEL, FORMAT = "smollm2", "bfp8"
TASKS = ("openbookqa", "piqa", "commonsenseqa", "siqa", "boolq", "mmlu")
LIMIT = 200  #: rows of each task
FIGURES = {"accuracy": "acc", "accuracy per letter": "acc_norm"}
YAML = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: right
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def harness(
    name: str, samples: list[dict[str, Any]], how: Sequence[str], place: Path
) -> list[dict[str, Any]]:
    """Return what the harness finds for each row, in order."""
    folder = place / f"harness-{name}"
    make_directory(folder)
    rows = folder / "rows.jsonl"
    keep = ("prompt", "choices", "right")
    write_rows(rows, ({key: one[key] for key in keep} for one in samples))
    write_text(folder / f"{name}.yaml", YAML.format(name=name, rows=rows.resolve()))
    python = HERE.parent / ".venv-peers" / "bin" / "python"
    command = [python, "-m", *how, "--tasks", name, "--include_path", folder]
    command += ["--output_path", folder / "out", "--log_samples"]
    subprocess.run([str(one) for one in command], check=True)
    found = sorted(folder.glob("out/**/samples_*.jsonl"))[-1]
    every = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    return sorted(every, key=lambda row: row["doc_id"])


def compared(what: str, reference: str, how: Sequence[str], place: Path) -> list[dict[str, Any]]:
    """Return a row for each task: our figures, and how many choices differ."""
    evaluate(reference, TASKS, place / "strop", limit=LIMIT)
    results = read_json(place / "strop" / "results.json")
    rows = []
    for name in TASKS:
        ours = read_rows(place / "strop" / SAMPLES / f"{name}.jsonl")
        theirs = harness(name, ours, how, place)
        assert len(ours) == len(theirs)
        row: dict[str, Any] = {"task": name, "model": what, "rows": len(ours)}
        for figure, metric in FIGURES.items():
            row[figure] = results["tasks"][name]["figures"][figure]["model"]
            row[f"{figure}: different"] = sum(
                one[figure] != float(other[metric]) for one, other in zip(ours, theirs, strict=True)
            )
        rows.append(row)
        say(json.dumps(row))
    return rows


def main() -> None:
    """Evaluate with both, and write where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/evaluation"))
    place = parser.parse_args().output
    packed = place / "model"
    if not packed.is_dir():
        pack(MODEL, FORMAT, packed)
    plain = ["lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "1"]
    plain += ["--model_args", f"pretrained={resolve(MODEL)},dtype=float32"]
    ours = ["strop.evaluation.harness", "run", "--model", "strop"]
    ours += ["--model_args", f"pretrained={packed.resolve()}"]
    rows = compared("float32", MODEL, plain, place / "float32")
    rows += compared(FORMAT, str(packed), ours, place / FORMAT)
    facts = environment()
    content = {
        "name": "evaluation",
        "title": (
            "Choices of strop eval, and how many differ from those of lm-evaluation-harness on the "
            "same prompts"
        ),
        "machine": {
            "processor": facts["processor"],
            "torch": f"torch {facts['versions']['torch']}",
        },
        "model": "SmolLM2-135M-Instruct, plain text",
        "rows": rows,
    }
    write_json(HERE / "results" / "evaluation.json", content)
    print(table("evaluation"))
    different = sum(row[f"{figure}: different"] for row in rows for figure in FIGURES)
    asked = sum(row["rows"] for row in rows)
    print("RESULT", json.dumps({"lm_eval_mismatches": different, "rows": asked}))


if __name__ == "__main__":
    main()
