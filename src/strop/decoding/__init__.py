"""Generation: sampling, the plain decoding loop, and conversations."""

from strop.decoding.cache import CachedSession
from strop.decoding.chat import (
    Conversation,
    chat_tokens,
    encode_prompt,
    prompt_text,
    prompt_tokens,
)
from strop.decoding.choose import DRAFTERS, planner_for
from strop.decoding.generate import complete, complete_many, generate
from strop.decoding.memory import Memory
from strop.decoding.noise import gumbel
from strop.decoding.output import (
    Completion,
    Delta,
    FinishReason,
    Output,
    Statistics,
    collect,
)
from strop.decoding.planner import Planner
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
    "Memory",
    "Output",
    "Planner",
    "Sampling",
    "Statistics",
    "StopStrings",
    "chat_tokens",
    "collect",
    "complete",
    "complete_many",
    "encode_prompt",
    "generate",
    "gumbel",
    "planner_for",
    "prompt_text",
    "prompt_tokens",
    "sample",
]
