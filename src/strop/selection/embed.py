"""Embeddings of examples from a model on this machine.

The mean of the last layer's states over the tokens of prompt and answer, the later ones weighted
more: token i of n by i. (Position-weighted mean pooling, Muennighoff 2022, arXiv 2202.08904,
section 3.1; in choosing data RDS+, Ivison et al. 2025, arXiv 2503.01807.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strop.console import progress
from strop.data import Prompt, make_directory
from strop.decoding import encode_prompt
from strop.errors import StropError
from strop.models.interface import Model

LOT = 64  #: rows that are kept together
CHUNK = 256  #: tokens in a pass

Embeddings = NDArray[np.float32]  #: (rows, hidden)


def embed(model: Model, texts: Sequence[tuple[Prompt, str]], work: Path) -> Embeddings:
    """Embed prompts with their answers; of longer ones than the context the beginning.

    What is done is kept in the work, a file for each so many rows. Raises StropError for a model
    that does not say its states.
    """
    make_directory(work)
    found = []
    with progress("embedding", len(texts), "rows") as advance:
        for start in range(0, len(texts), LOT):
            place = work / f"embeddings-{start // LOT:05}.npy"
            lot = texts[start : start + LOT]
            if not place.exists():
                partial = place.with_suffix(".partial.npy")
                np.save(partial, np.stack([pooled(model, *one) for one in lot]))
                partial.replace(place)
            found.append(np.load(place))
            advance(len(lot))
    return np.concatenate(found)


def pooled(model: Model, prompt: Prompt, answer: str) -> Embeddings:
    """Return the embedding of one text, (hidden,)."""
    tokenizer = model.tokenizer
    ids = encode_prompt(tokenizer, prompt) + tokenizer.encode(answer, special=False)
    ids = ids[: model.context_length]
    session = model.session()
    total: NDArray[np.float64] | float = 0.0
    for start in range(0, len(ids), CHUNK):
        session.forward(ids[start : start + CHUNK])
        if session.states is None:
            raise StropError(f"{model.name} does not say its states: pack it, or take another")
        weights = np.arange(start + 1, start + 1 + len(session.states), dtype=np.float64)
        total = total + weights @ session.states.astype(np.float64)
    mean: Embeddings = np.asarray(total / (len(ids) * (len(ids) + 1) / 2), dtype=np.float32)
    return mean
