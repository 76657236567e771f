"""Every answer of `strop eval` beside that of lm-evaluation-harness, on the same prompts.

Twice: the harness runs the same weights by transformers in float32, where Strop runs them on
PyTorch; and the harness drives a packed model of ours by the adapter in strop.evaluation.harness,
beside `strop eval` on that model. The harness has an environment of its own (.venv-peers), and
tasks that are written from ours. Both choose by the log-probability of an answer, and by that of a
letter; both write an answer, of which the last number counts; both predict texts. Writes
benchmarks/results/evaluation.json and evaluation_text.json.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine_models import HERE
from strop.console import say
from strop.data import make_directory, read_json, read_rows, write_json, write_rows, write_text
from strop.evaluation.evaluate import SAMPLES, evaluate
from strop.evaluation.tasks import open_task
from strop.models import resolve
from strop.models.environment import environment
from strop.models.packing import pack
from tables import table

MODEL, FORMAT = "smollm2", "bfp8"
CHOICES = ("openbookqa", "piqa", "commonsenseqa", "siqa", "boolq", "mmlu")
WRITTEN, PREDICTED = "asdiv", "xsum"
LIMITS = {**dict.fromkeys(CHOICES, 200), WRITTEN: 50, PREDICTED: 30}  #: rows of each task
FIGURES = {"accuracy": "acc", "accuracy per letter": "acc_norm"}
CLOSE = 1e-5  #: of itself, that the log-probability of a text may be off by: sums of float32
COMMON = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
doc_to_text: "{{{{prompt}}}}"
"""
CHOICE = """\
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: right
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITE = """\
output_type: generate_until
doc_to_target: "{{{{right[0]}}}}"
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: {most}}}
filter_list:
  - name: last number
    filter:
      - {{function: regex, regex_pattern: {pattern}, group_select: -1}}
      - {{function: take_first}}
metric_list:
  - metric: exact_match
    regexes_to_ignore: [",", "\\\\.0+$"]
"""
PREDICT = """\
output_type: loglikelihood_rolling
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""

Rows = list[dict[str, Any]]


def harness(name: str, samples: Rows, how: Sequence[str], place: Path) -> Rows:
    """Return what the harness finds for each row, in order."""
    folder = place / f"harness-{name}"
    make_directory(folder)
    rows = folder / "rows.jsonl"
    keep = {"prompt", "choices", "right", "text"}
    write_rows(rows, ({key: one[key] for key in keep & one.keys()} for one in samples))
    task = open_task(name)
    own = {
        WRITTEN: WRITE.format(most=task.max_tokens, pattern=json.dumps(task.pattern)),
        PREDICTED: PREDICT,
    }.get(name, CHOICE)
    write_text(folder / f"{name}.yaml", COMMON.format(name=name, rows=rows.resolve()) + own)
    python = HERE.parent / ".venv-peers" / "bin" / "python"
    command = [python, "-m", *how, "--tasks", name, "--include_path", folder]
    command += ["--output_path", folder / "out", "--log_samples"]
    subprocess.run([str(one) for one in command], check=True)
    found = sorted(folder.glob("out/**/samples_*.jsonl"))[-1]
    every = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    return sorted(every, key=lambda row: row["doc_id"])


def first_of(replies: Any) -> Any:
    """Return the first reply of those that the harness logged in lists."""
    return first_of(replies[0]) if isinstance(replies, list) else replies


def chosen(ours: Rows, theirs: Rows, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return our figures of choices, and how many choices differ."""
    row = {}
    for figure, metric in FIGURES.items():
        row[figure] = figures[figure]["model"]
        row[f"{figure}: different"] = sum(
            one[figure] != float(other[metric]) for one, other in zip(ours, theirs, strict=True)
        )
    return row


def wrote(ours: Rows, theirs: Rows, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many answers are right, and how many differ in what they say or are worth."""
    return {
        "figure": "exact match",
        "value": figures["exact match"]["model"],
        "different": sum(
            one["reply"] != first_of(other["resps"]) or one["exact match"] != other["exact_match"]
            for one, other in zip(ours, theirs, strict=True)
        ),
    }


def predicted(ours: Rows, theirs: Rows, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return how well texts are predicted, and how many log-probabilities differ."""
    losses = [one["loss per token"][0] for one in ours]
    others = [-float(first_of(other["resps"])) for other in theirs]
    return {
        "figure": "bits per byte",
        "value": figures["bits per byte"]["model"],
        "different": sum(
            not math.isclose(one, other, rel_tol=CLOSE)
            for one, other in zip(losses, others, strict=True)
        ),
    }


def compared(what: str, reference: str, how: Sequence[str], place: Path) -> Rows:
    """Return a row for each task: our figures, and how many rows differ."""
    rows = []
    for name, limit in LIMITS.items():
        evaluate(reference, [name], place / name, limit=limit, chat=False)
        found = read_json(place / name / "results.json")["tasks"][name]["figures"]
        ours = read_rows(place / name / SAMPLES / f"{name}.jsonl")
        theirs = harness(name, ours, how, place)
        beside = {WRITTEN: wrote, PREDICTED: predicted}.get(name, chosen)
        row = {"task": name, "model": what, "rows": len(ours), **beside(ours, theirs, found)}
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
    same = "how many differ from those of lm-evaluation-harness on the same prompts"
    tables = {
        "evaluation": (f"Choices of strop eval, and {same}", CHOICES),
        "evaluation_text": (
            f"Answers that strop eval wrote and texts that it predicted, and {same}",
            (WRITTEN, PREDICTED),
        ),
    }
    for name, (title, tasks) in tables.items():
        content = {
            "name": name,
            "title": title,
            "machine": {
                "processor": facts["processor"],
                "torch": f"torch {facts['versions']['torch']}",
            },
            "model": "SmolLM2-135M-Instruct, plain text",
            "rows": [row for row in rows if row["task"] in tasks],
        }
        write_json(HERE / "results" / f"{name}.json", content)
        print(table(name))
    different = sum(row[key] for row in rows for key in row if key.endswith("different"))
    asked = sum(row["rows"] for row in rows)
    print("RESULT", json.dumps({"lm_eval_mismatches": different, "rows": asked}))


if __name__ == "__main__":
    main()
