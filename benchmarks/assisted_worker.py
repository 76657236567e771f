"""Another library that generates with lookup of its own, in a process: `assisted_worker.py SETUP`.

Like engine_worker.py, but whole answers: {"measure": "write", "tokens": [...], "most": N} is
answered by the tokens that were written, and when each came, in seconds. Greedy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Protocol

Written = tuple[list[int], list[float]]


class Writer(Protocol):
    """A library with a model."""

    def write(self, tokens: list[int], most: int) -> Written:
        """Continue a prompt; return its new tokens and when each came."""


class Transformers:
    """PyTorch: plain, with prompt lookup, or with an assistant model.

    No smaller model with these tokens is to be had here, so the assistant is the model itself: all
    its guesses are right.
    """

    def __init__(self, path: str, threads: int, dtype: str, way: str) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch, self.transformers = torch, transformers

        def network() -> Any:
            return transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=getattr(torch, dtype), local_files_only=True
            ).eval()

        self.network = network()
        self.options: dict[str, Any] = {
            "plain": {},
            "lookup": {"prompt_lookup_num_tokens": 8, "max_matching_ngram_size": 3},
            "assistant": {"assistant_model": network()} if way == "assistant" else {},
        }[way]

    def write(self, tokens: list[int], most: int) -> Written:
        """See `Writer.write`."""
        times: list[float] = []
        text: list[int] = []

        class Clock(self.transformers.generation.streamers.BaseStreamer):
            def put(self, value: Any) -> None:
                times.extend([time.perf_counter()] * int(value.numel()))
                text.extend(value.flatten().tolist())

            def end(self) -> None:
                pass

        ids = self.torch.tensor([tokens])
        self.network.generate(
            ids,
            attention_mask=self.torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=most,
            streamer=Clock(),
            **self.options,
        )
        return text[len(tokens) :], times[len(tokens) :]  # the prompt comes first


class LlamaCppPython:
    """llama-cpp-python: plain, or with its prompt lookup as it advises for a CPU."""

    def __init__(self, path: str, threads: int, way: str) -> None:
        from llama_cpp import Llama
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        self.llama = Llama(
            path,
            n_ctx=2304,
            n_threads=threads,
            n_threads_batch=threads,
            draft_model=LlamaPromptLookupDecoding(num_pred_tokens=2) if way == "lookup" else None,
            logits_all=way == "lookup",  # else a second prompt with a draft model does not fit
            verbose=False,
        )

    def write(self, tokens: list[int], most: int) -> Written:
        """See `Writer.write`."""
        text: list[int] = []
        times = []
        end = self.llama.token_eos()
        for token in self.llama.generate(tokens, temp=0.0, repeat_penalty=1.0):
            times.append(time.perf_counter())
            text.append(token)
            if token == end or len(times) >= most:
                break
        return text, times


WRITERS = {"transformers": Transformers, "llama-cpp-python": LlamaCppPython}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print does not belong to the answers
    setup = json.loads(sys.argv[1])
    options = setup.pop("options")
    writer: Writer = WRITERS[setup.pop("engine")](**setup, **options)
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(writer.write(request["tokens"], request["most"])) + "\n")


if __name__ == "__main__":
    main()
