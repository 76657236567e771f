"""The native extension: quantizing, the engine, and what sampling and lookup do for each token.

Quantizing gives the same bits as `strop.blockfp.reference`.
"""

from collections.abc import Sequence

from numpy import float32, float64, int32, int64, uint8, uint32
from numpy.typing import NDArray

class Layout:
    """A number format as the kernels see it."""

    def __init__(
        self,
        block: int,
        code_bits: int,
        scale: int,
        element: int,
        mantissa_bits: int,
        smallest_exponent: int,
        largest: float,
        largest_exponent: int,
        values: list[float],
        steps: list[int],
        upper: list[float],
        /,
    ) -> None: ...

def quantize(
    layout: Layout,
    rule: int,
    truncate: bool,
    x: NDArray[float32],
    tensor_scale: float,
    codes: NDArray[uint8],
    scales: NDArray[uint8],
    threads: int,
    /,
) -> None:
    """Quantize rows into `codes` and `scales`; ValueError if shapes do not fit the format."""

def dequantize(
    layout: Layout,
    codes: NDArray[uint8],
    scales: NDArray[uint8],
    tensor_scale: float,
    y: NDArray[float32],
    threads: int,
    /,
) -> None:
    """Dequantize rows into `y`; ValueError if shapes do not fit the format."""

def largest_finite(x: NDArray[float32], threads: int, /) -> float:
    """Return the largest finite magnitude of an array; 0 if there is none."""

def random_words(seed: int, position: int, use: int, tokens: NDArray[int64], /) -> NDArray[uint32]:
    """Return a random word for each token, see `strop.decoding.noise`.

    ValueError for a number that is no token.
    """

def candidates(
    logits: NDArray[float32] | NDArray[float64],
    history: NDArray[int64],
    penalty: float,
    temperature: float,
    top_k: int,
    floor: float,
    /,
) -> tuple[NDArray[int64], NDArray[float64]]:
    """Return the tokens, ascending, whose scores are at least `floor`, and these scores.

    A score is how far a logit lies above the best one, so 0 or less, divided by the temperature; at
    temperature 0 the first of the best is all there is. Tokens of `history` are penalized before
    that. Empty where a logit is NaN or +inf, or none is finite.
    """

class SuffixAutomaton:
    """Finds the longest end of a growing text that occurred in it before."""

    def __init__(self) -> None: ...
    def extend(self, tokens: Sequence[int], /) -> None:
        """Add tokens, of 32 bits; TypeError for what is none."""

    @property
    def match(self) -> tuple[int, int]:
        """The length of that end, and how many tokens there were when it last came before."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""

def instruction_set() -> str:
    """Return the instruction set in use: the best one, or the one that STROP_ISA names."""

def instruction_sets() -> list[str]:
    """Return the instruction sets that this processor has, the fastest first."""

def runs_format(layout: Layout, /) -> bool:
    """Tell whether the engine multiplies this format: small integers under one scale per block."""

class Matrix:
    """A packed matrix (rows, cols), ready to be multiplied."""

    def __init__(
        self,
        layout: Layout,
        codes: NDArray[uint8],
        scales: NDArray[uint8],
        tensor_scale: float,
        cols: int,
        resident: bool,
        threads: int,
        /,
    ) -> None:
        """Take the parts of a packed tensor, see `strop.blockfp.BlockTensor`.

        `resident` copies them, arranged for the processor; otherwise they are arranged again at
        every use, and the arrays kept. ValueError for what cannot be multiplied, such as a NaN.
        """

    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def nbytes(self) -> int:
        """Bytes of memory of its own."""

class Layer:
    """One decoder layer: attention and MLP."""

    def __init__(
        self,
        *,
        query: Matrix,
        key: Matrix,
        value: Matrix,
        output: Matrix,
        gate: Matrix,
        up: Matrix,
        down: Matrix,
        input_norm: NDArray[float32],
        mlp_norm: NDArray[float32],
        query_bias: NDArray[float32] | None,
        key_bias: NDArray[float32] | None,
        value_bias: NDArray[float32] | None,
        output_bias: NDArray[float32] | None,
        query_norm: NDArray[float32] | None,
        key_norm: NDArray[float32] | None,
        window: int,
        rotary: bool,
    ) -> None:
        """Join matrices and vectors; `query_norm` and `key_norm` have one element per head's.

        `window` is the number of keys that a query sees, counted back from its own; 0 means all.
        """

class Engine:
    """A decoder: weights that any number of caches share."""

    def __init__(
        self,
        *,
        layers: list[Layer],
        embedding: Matrix,
        head: Matrix | None,
        final_norm: NDArray[float32],
        heads: int,
        kv_heads: int,
        head_dim: int,
        norm_epsilon: float,
        frequencies: NDArray[float32],
        rotary_scale: float,
        context: int,
        threads: int,
    ) -> None:
        """Join layers; without `head`, the embedding is the head. ValueError if shapes differ."""

    def forward(
        self, caches: list[Cache], tokens: list[NDArray[int32]], last: int, /
    ) -> tuple[NDArray[float32], NDArray[float32]]:
        """Append tokens to each cache; return logits and states of the last `last`, stacked.

        A state is what the head multiplies. Caches may be those of an engine of the same shape.
        Releases the GIL. Caches have grown when it returns, not when it raises.
        """

class DraftHead:
    """A small network that guesses the token after next, see native/draft_head.hpp."""

    def __init__(
        self,
        *,
        engine: Engine,
        fuse: Matrix,
        gate: Matrix,
        up: Matrix,
        down: Matrix,
        head: Matrix,
        token_norm: NDArray[float32],
        state_norm: NDArray[float32],
        mlp_norm: NDArray[float32],
        final_norm: NDArray[float32],
    ) -> None:
        """Join matrices and norms; embeddings are the engine's. ValueError if shapes differ."""

    def step(
        self, token: int, state: NDArray[float32], /
    ) -> tuple[NDArray[float32], NDArray[float32]]:
        """Return logits (1, outputs) of what follows a token, and the next state (1, hidden)."""

class Cache:
    """The keys and values of one sequence, kept as "fp16" or "bfp8"."""

    def __init__(self, engine: Engine, format: str, /) -> None: ...
    @property
    def length(self) -> int:
        """Tokens in the cache."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""

    def fork(self) -> Cache:
        """Return another with the same tokens."""

    def truncate(self, length: int, /) -> None:
        """Keep the first `length` tokens."""
