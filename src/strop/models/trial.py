"""A short run in a process of its own, to measure what was predicted.

python -m strop.models.trial SETTINGS generates; SETTINGS is a JSON object with the arguments of
`generate`. What it takes is printed as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np

from strop.errors import StropError, StropFailure
from strop.models.environment import peak_memory
from strop.models.load import load

ANSWER = 8  #: tokens that are generated, one at a time

Measured = dict[str, float]  #: "peak_bytes", and "seconds" for each token or prompt


def generate(model: str, backend: str, kv: str | None, context: int) -> Measured:
    """Read a prompt of random tokens and go on, up to `context` tokens in all."""
    loaded = load(model, backend, kv)
    session = loaded.session()
    answer = min(ANSWER, context - 1)
    random = np.random.default_rng(0)
    session.forward(random.integers(0, loaded.vocabulary, context - answer).tolist(), last=1)
    start = perf_counter()
    for token in random.integers(0, loaded.vocabulary, answer).tolist():
        session.forward([token], last=1)
    took = perf_counter() - start
    return {"peak_bytes": float(peak_memory()), "seconds": took / answer}


def in_fresh_process(module: str, settings: Mapping[str, Any]) -> Measured:
    """Run a module such as this one; StropFailure says how it failed."""
    command = [sys.executable, "-m", module, json.dumps(settings)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode < 0:
        raise StropFailure(f"the trial was killed by signal {-result.returncode}: out of memory?")
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["it said nothing"]
        raise StropFailure(f"the trial failed: {lines[-1]}")
    measured: Measured = json.loads(result.stdout.strip().splitlines()[-1])
    return measured


def answer(run: Callable[..., Measured]) -> None:
    """Run with the settings on the command line and print what was measured."""
    try:
        print(json.dumps(run(**json.loads(sys.argv[1]))))
    except StropError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    answer(generate)
