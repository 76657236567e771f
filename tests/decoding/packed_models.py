"""Prompts and samplings for tests that generate with the tiny model, packed."""

from strop.decoding import Sampling

SAMPLINGS = [
    Sampling(temperature=0, repetition_penalty=1, min_p=0, max_tokens=50),
    Sampling(temperature=0.8, repetition_penalty=1.1, max_tokens=50, seed=5),
]
PROMPTS = [[5, 6, 7, 5, 6], list(range(40, 90)), [1]]
