"""Generation: sampling, the plain decoding loop, and conversations."""

from strop.decoding.cache import CachedSession
from strop.decoding.chat import Conversation, chat_tokens, prompt_tokens
from strop.decoding.generate import (
    Completion,
    Delta,
    FinishReason,
    Output,
    Statistics,
    collect,
    complete,
    generate,
)
from strop.decoding.noise import gumbel
from strop.decoding.planner import DRAFTERS, Planner, planner_for
from strop.decoding.sampling import GREEDY, Sampling, sample
from strop.decoding.text import Detokenizer, StopStrings

__all__ = [
    "DRAFTERS",
    "GREEDY",
    "CachedSession",
    "Completion",
    "Conversation",
    "Delta",
    "Detokenizer",
    "FinishReason",
    "Output",
    "Planner",
    "Sampling",
    "Statistics",
    "StopStrings",
    "chat_tokens",
    "collect",
    "complete",
    "generate",
    "gumbel",
    "planner_for",
    "prompt_tokens",
    "sample",
]
