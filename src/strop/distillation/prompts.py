"""Prompts that a chat model writes itself: what it expects a user to say.

A chat model that is given its template up to where the user speaks goes on as a user would. (Xu et
al. 2024, "Magpie", arXiv 2406.08464.)
"""

from __future__ import annotations

import numpy as np

from strop.console import progress
from strop.decoding import Sampling, chat_tokens, complete_many
from strop.distillation.texts import WIDTH
from strop.models.native_backend import NativeModel

COUNT = 512  #: prompts
MOST = 96  #: tokens of a prompt
MARK = "\u2063user speaks here\u2063"  # invisible, and in no template


def own_prompts(model: NativeModel, seed: int) -> list[list[int]]:
    """Return the tokens of prompts that the model writes; without a chat template, first words."""
    tokenizer = model.tokenizer
    if tokenizer.template is None:
        random = np.random.default_rng(seed)
        return [[int(token)] for token in random.integers(tokenizer.size, size=COUNT)]
    before = tokenizer.chat([{"role": "user", "content": MARK}]).partition(MARK)[0]
    start = tokenizer.encode(before, special=False)
    samplings = [
        Sampling(temperature=1.0, min_p=0.05, max_tokens=MOST, seed=seed + index)
        for index in range(COUNT)
    ]
    found = []
    with progress("writing prompts", COUNT, "prompts") as advance:
        for _, completion in complete_many(model, [start] * COUNT, samplings, width=WIDTH):
            text = completion.text.strip()
            if text:
                found.append(chat_tokens(tokenizer, [{"role": "user", "content": text}]))
            advance(1)
    return found
