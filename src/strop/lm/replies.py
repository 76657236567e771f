"""What an endpoint that speaks OpenAI's protocol replied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from strop.lm.interface import Answer, Failed

MOST_TOKENS = 10**9  #: of a reply, that anyone can have counted
#: An endpoint's words for why an answer ended, in ours
REASONS = {"stop": "end", "length": "length"}


def answered(reply: Any, options: Sequence[str]) -> Answer | Failed:
    """Read a reply; AttributeError, TypeError or ValueError if it is not as the protocol says."""
    [choice, *_] = reply.choices
    if not isinstance(choice.message.content, str):
        return Failed("a reply without text")
    reason = REASONS.get(choice.finish_reason, str(choice.finish_reason))
    (choice.message.content + reason).encode()  # ValueError for what is not Unicode
    read, written = (
        int(getattr(reply.usage, name, 0) or 0) for name in ("prompt_tokens", "completion_tokens")
    )
    if not 0 <= min(read, written) <= max(read, written) <= MOST_TOKENS:
        raise ValueError("no numbers of tokens")
    return Answer(
        text=choice.message.content,
        finish_reason=reason,
        prompt_tokens=read,
        tokens=written,
        options=told(choice, options),
    )


def told(choice: Any, options: Sequence[str]) -> tuple[float | None, ...]:
    """Return the log-probabilities of options that a reply tells of its first token.

    There are none where it tells them in another form than the protocol's: the text still counts.
    """
    unknown = (None,) * len(options)
    content = getattr(choice.logprobs, "content", None) if options else None
    try:
        first = content[0].top_logprobs if content else ()
        known = {one.token: float(one.logprob) for one in reversed(first)}
    except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError):
        return unknown
    if not all(-math.inf <= logp <= 0.0 for logp in known.values()):
        return unknown
    return tuple(known.get(option) for option in options)


def spelled(error: Any) -> str:
    """Spell an error of an endpoint in a few words."""
    status = getattr(error, "status_code", None)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{status}: {text}"[:200] if status and str(status) not in text else text[:200]
