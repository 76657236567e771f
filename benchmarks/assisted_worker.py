"""Another library that generates with lookup of its own, in a process: `assisted_worker.py SETUP`.

Like engine_worker.py, but whole answers: {"measure": "write", "tokens": [...], "most": N} is
answered by the seconds from the first token to the last, and how many came after it. Greedy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Protocol


class Writer(Protocol):
    """A library with a model."""

    def write(self, tokens: list[int], most: int) -> list[float]:
        """Continue a prompt; return when each token came."""


class Transformers:
    """PyTorch, with prompt lookup."""

    def __init__(self, path: str, threads: int, dtype: str) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch, self.transformers = torch, transformers
        self.network = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), local_files_only=True
        ).eval()

    def write(self, tokens: list[int], most: int) -> list[float]:
        """See `Writer.write`."""
        times: list[float] = []

        class Clock(self.transformers.generation.streamers.BaseStreamer):
            def put(self, value: Any) -> None:
                times.extend([time.perf_counter()] * int(value.numel()))

            def end(self) -> None:
                pass

        ids = self.torch.tensor([tokens])
        self.network.generate(
            ids,
            attention_mask=self.torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=most,
            prompt_lookup_num_tokens=8,
            max_matching_ngram_size=3,
            streamer=Clock(),
        )
        return times[len(tokens) :]  # the prompt comes first


class LlamaCppPython:
    """llama-cpp-python, with its prompt lookup as it advises for a CPU."""

    def __init__(self, path: str, threads: int) -> None:
        from llama_cpp import Llama
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        self.llama = Llama(
            path,
            n_ctx=2304,
            n_threads=threads,
            n_threads_batch=threads,
            draft_model=LlamaPromptLookupDecoding(num_pred_tokens=2),
            verbose=False,
        )

    def write(self, tokens: list[int], most: int) -> list[float]:
        """See `Writer.write`."""
        times = []
        end = self.llama.token_eos()
        for token in self.llama.generate(tokens, temp=0.0, repeat_penalty=1.0):
            times.append(time.perf_counter())
            if token == end or len(times) >= most:
                break
        return times


WRITERS = {"transformers": Transformers, "llama-cpp-python": LlamaCppPython}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print does not belong to the answers
    setup = json.loads(sys.argv[1])
    options = setup.pop("options")
    writer: Writer = WRITERS[setup.pop("engine")](**setup, **options)
    for line in sys.stdin:
        request = json.loads(line)
        times = writer.write(request["tokens"], request["most"])
        answers.write(json.dumps([times[-1] - times[0], len(times) - 1]) + "\n")


if __name__ == "__main__":
    main()
