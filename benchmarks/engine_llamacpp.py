"""llama.cpp through the low-level interface of llama-cpp-python; runs in .venv-peers.

Only `llama_decode` and the wait for its logits are timed, not the Python around them.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

#: GGUF file type -> number that llama.cpp gives it
FILE_TYPES = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}

FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


@llama_cpp.llama_log_callback
def silent(level: int, text: bytes, data: Any) -> None:
    """Drop the log; failures come back as return values."""


llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))


class LlamaCpp:
    """A GGUF file and one sequence in llama.cpp."""

    def __init__(
        self,
        path: Path,
        threads: int,
        flash_attention: str = "auto",
        repack: bool = True,
        ubatch: int = 512,
        length: int = 2560,
    ) -> None:
        """Open a file with room for `length` tokens; `ubatch` of them are computed at a time."""
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = repack
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = context.n_batch = length
        context.n_ubatch = ubatch
        context.n_threads = context.n_threads_batch = threads
        context.flash_attn_type = FLASH_ATTENTION[flash_attention]
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        if not self.context:
            raise RuntimeError(f"llama.cpp cannot make a context for {path}")
        self.memory = llama_cpp.llama_get_memory(self.context)
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.batch = llama_cpp.llama_batch_init(length, 0, 1)
        self.length = 0

    def forward(self, tokens: list[int], last: int) -> tuple[float, np.ndarray]:
        """Append tokens; return the seconds it took and the logits of the last `last` of them."""
        count, batch = len(tokens), self.batch
        batch.n_tokens = count
        fill(batch.token, tokens)
        fill(batch.pos, range(self.length, self.length + count))
        fill(batch.n_seq_id, [1] * count)
        fill(batch.logits, [index >= count - last for index in range(count)])
        for index in range(count):
            batch.seq_id[index][0] = 0  # the one sequence
        start = time.perf_counter()
        failed = llama_cpp.llama_decode(self.context, batch)
        pointer = llama_cpp.llama_get_logits(self.context)
        seconds = time.perf_counter() - start
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")
        self.length += count
        return seconds, np.ctypeslib.as_array(pointer, (last, self.vocabulary))

    def truncate(self, length: int) -> None:
        """Roll back to the first `length` tokens."""
        if not llama_cpp.llama_memory_seq_rm(self.memory, 0, length, -1):
            raise RuntimeError(f"llama.cpp cannot roll back to {length} tokens")
        self.length = length


def fill(array: Any, values: Any) -> None:
    """Copy values to the start of a C array."""
    for index, value in enumerate(values):
        array[index] = value


def quantize(source: Path, target: Path, file_type: str) -> None:
    """Write `source` in another type, as llama-quantize does with --allow-requantize."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = FILE_TYPES[file_type]
    options.allow_requantize = True
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(options)
    )
    if failed:
        raise RuntimeError(f"llama.cpp cannot write {target}")
