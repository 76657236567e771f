"""One engine in a process of its own, driven by lines of JSON: `engine_worker.py SETUP`.

SETUP is a JSON object: "engine" (strop, transformers or llama.cpp), "path", "threads", "options".
Each line on standard input, {"measure": NAME, ...arguments}, is answered by one line. All engines
go through the same measures, and the clock runs only while an engine computes logits. This file
runs in .venv-peers too: nothing but NumPy is imported until an engine is chosen.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Engine(Protocol):
    """A model and one sequence."""

    def forward(self, tokens: list[int], last: int) -> tuple[float, np.ndarray]:
        """Append tokens; return the seconds it took and the logits of the last `last` of them."""

    def truncate(self, length: int) -> None:
        """Roll back to the first `length` tokens."""


class Strop:
    """A packed model on the native engine; what Python does around it is timed as well."""

    def __init__(self, path: Path, threads: int) -> None:
        os.environ["STROP_THREADS"] = str(threads)
        from strop import load

        self.session = load(str(path), backend="native").session()
        self.truncate = self.session.truncate

    def forward(self, tokens: list[int], last: int) -> tuple[float, np.ndarray]:
        """See `Engine.forward`."""
        start = time.perf_counter()
        logits = self.session.forward(tokens, last=last)
        return time.perf_counter() - start, logits


class Transformers:
    """A transformers directory in PyTorch."""

    def __init__(self, path: Path, threads: int, dtype: str) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch = torch
        self.network = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), local_files_only=True
        ).eval()
        self.cache = transformers.DynamicCache()

    def forward(self, tokens: list[int], last: int) -> tuple[float, np.ndarray]:
        """See `Engine.forward`."""
        ids = self.torch.tensor([tokens])
        start = time.perf_counter()
        with self.torch.inference_mode():
            output = self.network(
                input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=last
            )
            logits = output.logits[0].float().numpy()
        return time.perf_counter() - start, logits

    def truncate(self, length: int) -> None:
        """See `Engine.truncate`."""
        if length == 0:
            self.cache = type(self.cache)()
        elif (beyond := self.cache.get_seq_length() - length) > 0:
            self.cache.crop(-beyond)


def open_engine(engine: str, path: str, threads: int, options: dict[str, Any]) -> Engine:
    if engine == "strop":
        return Strop(Path(path), threads, **options)
    if engine == "transformers":
        return Transformers(Path(path), threads, **options)
    from engine_llamacpp import LlamaCpp

    return LlamaCpp(Path(path), threads, **options)


def prefill(engine: Engine, tokens: list[int]) -> float:
    """Return the seconds from an empty sequence to the logits of the last token."""
    engine.truncate(0)
    return engine.forward(tokens, 1)[0]


def decode(engine: Engine, prompt: list[int], tokens: list[int]) -> float:
    """Return the seconds that `tokens` take one by one after a prompt."""
    prefill(engine, prompt)
    return sum(engine.forward([token], 1)[0] for token in tokens)


def verify(
    engine: Engine, prompt: list[int], tokens: list[int], sizes: list[int], repeats: int
) -> list[float]:
    """Return the seconds for the logits of M tokens in one pass, medians, for each M of `sizes`."""
    prefill(engine, prompt)
    seconds = np.empty((repeats, len(sizes)))
    for repeat in range(repeats):
        for index, size in enumerate(sizes):
            engine.truncate(len(prompt))
            seconds[repeat, index] = engine.forward(tokens[:size], size)[0]
    return [float(value) for value in np.median(seconds, axis=0)]


def losses(engine: Engine, chunks: list[list[int]]) -> list[float]:
    """Return the mean negative log-likelihood of each chunk, in nats, but of its first token."""
    means = []
    for chunk in chunks:
        engine.truncate(0)
        logits = engine.forward(chunk[:-1], len(chunk) - 1)[1]
        total = 0.0
        for row, target in zip(logits, chunk[1:], strict=True):  # rows: temporaries stay small
            row = row.astype(np.float64)
            most = row.max()
            total += most + np.log(np.exp(row - most).sum()) - row[target]
        means.append(float(total / (len(chunk) - 1)))
    return means


def peak_memory(engine: Engine) -> int:
    """Return the largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


MEASURES = {measure.__name__: measure for measure in (prefill, decode, verify, losses, peak_memory)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print does not belong to the answers
    engine = open_engine(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        value = MEASURES[request.pop("measure")](engine, **request)
        answers.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    main()
