"""What packing cost: a candidate model against its source on the same text.

Per chunk of text: the loss (negative log-likelihood of the next token, nats), the Kullback-Leibler
divergence KL(source || candidate) over the whole vocabulary, and top-1 agreement, each averaged
over the positions of the chunk. Chunks are what varies independently, so the intervals are
bootstraps over chunks, and the difference of perplexities is paired by chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.console import progress
from strop.errors import StropError, StropFailure
from strop.evaluation.text import cut
from strop.models.interface import Logits, Model
from strop.stats import Interval, Verdict, bootstrap, mean, paired_difference, verdict

LogProbabilities = NDArray[np.float32]  #: one row per position, one column per vocabulary entry

BLOCK = 32  # rows per step: temporaries of a few megabytes, several times faster than all at once


@dataclass(frozen=True)
class CheckResult:
    """A candidate model measured against its source; every interval counts chunks."""

    candidate: str  #: name of the model under test
    source: str  #: name of the model it was made from
    perplexity: Interval  #: of the candidate
    source_perplexity: Interval  #: of the source
    difference: Interval  #: perplexity of candidate / source - 1, in percent, paired by chunk
    kl: Interval  #: mean KL(source || candidate) per token, in nats
    agreement: Interval  #: share of positions where both rank the same token first
    chunks: int  #: independent pieces of text
    chunk: int  #: tokens per chunk, the first of which is not scored
    tokens: int  #: scored tokens
    seed: int  #: of the bootstrap

    @property
    def verdict(self) -> Verdict:
        """Say whether the candidate's perplexity is better or worse than the source's."""
        return verdict(self.difference, lower_is_better=True)

    @property
    def sentence(self) -> str:
        """Say in plain words what was found."""
        found = self.difference
        where = f"{self.chunks} chunks of {self.chunk} tokens"
        if self.kl.high == 0.0 and self.agreement.low == 1.0:
            return f"{self.candidate} and {self.source} are identical on {where}."
        if self.verdict == "cannot tell":
            return (
                f"Cannot tell the perplexity of {self.candidate} from that of {self.source}: "
                f"it differs by {percent(found)} on {where}."
            )
        lower_or_higher = "lower" if self.verdict == "better" else "higher"
        return (
            f"{self.candidate} is {self.verdict} than {self.source}: its perplexity is "
            f"{lower_or_higher} by {percent(found)} on {where}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the verdict as a JSON object."""
        return asdict(self) | {"verdict": self.verdict}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> CheckResult:
        """Return the result that `to_json` wrote."""
        fields: dict[str, Any] = {
            name: Interval(**value) if isinstance(value, dict) else value
            for name, value in row.items()
            if name != "verdict"
        }
        return cls(**fields)


def check(
    candidate: Model,
    source: Model,
    text: str,
    tokens: int = 16384,
    chunk: int = 512,
    seed: int = 0,
) -> CheckResult:
    """Measure what `candidate` lost against `source` on at most `tokens` tokens of `text`.

    Chunks of `chunk` tokens are spread evenly over the text; each is a context of its own, and its
    first token is not scored. Memory: the logits of one chunk of both models. Raises StropError
    when the tokenizers disagree, when the text has fewer than 8 chunks, and when a chunk is longer
    than a model's context.
    """
    chunks = contexts(candidate, source, text, tokens, chunk)
    wanted = (log_probabilities(source, context) for context in chunks)
    rows = measure(candidate, chunks, wanted, label=f"checking {candidate.name}")
    return summarize(rows, candidate.name, source.name, chunk, seed)


def percent(change: Interval) -> str:
    """Print a change in percent, with digits enough to tell it from zero."""
    form = "+.2f" if max(abs(change.low), abs(change.high)) >= 0.1 else "+.4f"
    return f"{change.estimate:{form}}% [{change.low:{form}}, {change.high:{form}}]"


def contexts(
    candidate: Model, source: Model, text: str, tokens: int, chunk: int
) -> list[list[int]]:
    """Cut the text for two models; StropError when they would not read the same tokens."""
    for model in (candidate, source):
        if chunk > model.context_length:
            raise StropError(
                f"{model.name} has a context of {model.context_length} tokens: take chunks of at "
                f"most that, not {chunk}"
            )
    chunks = cut(candidate.tokenizer, text, tokens, chunk)
    if chunks != cut(source.tokenizer, text, tokens, chunk):
        raise StropError(
            f"{candidate.name} and {source.name} have different tokenizers: their perplexities "
            "cannot be compared"
        )
    return chunks


def measure(
    candidate: Model,
    chunks: Sequence[Sequence[int]],
    source: Iterable[LogProbabilities],
    label: str,
) -> NDArray[np.float64]:
    """Return one row per chunk: loss of candidate, loss of source, KL, top-1 agreement.

    `source` yields the source's log-probabilities chunk by chunk, in order.
    """
    rows = []
    with progress(label, sum(map(len, chunks)), "tokens") as advance:
        for context, wanted in zip(chunks, source, strict=True):
            rows.append(scores(log_probabilities(candidate, context), wanted, context[1:]))
            advance(len(context))
    return np.array(rows)


def summarize(
    rows: NDArray[np.float64], candidate: str, source: str, chunk: int, seed: int
) -> CheckResult:
    """Turn the rows of `measure` into intervals."""
    ours, theirs, kl, agreement = rows.T
    ratio = paired_difference(ours, theirs, perplexity, relative=True, seed=seed)
    return CheckResult(
        candidate=candidate,
        source=source,
        perplexity=bootstrap(ours, perplexity, seed=seed),
        source_perplexity=bootstrap(theirs, perplexity, seed=seed),
        difference=ratio.scaled(100),
        kl=bootstrap(kl, seed=seed),
        agreement=bootstrap(agreement, seed=seed),
        chunks=len(rows),
        chunk=chunk,
        tokens=len(rows) * (chunk - 1),
        seed=seed,
    )


def perplexity(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the perplexity of each resample of losses per chunk; all chunks are equally long."""
    return np.exp(mean(losses))


def log_probabilities(model: Model, context: Sequence[int]) -> LogProbabilities:
    """Return log-probabilities of every token but the first, shape (len(context) - 1, vocabulary).

    Raises StropFailure when the model's logits are not finite.
    """
    logits = model.session().forward(context[:-1])
    if not np.isfinite(logits).all():
        raise StropFailure(f"{model.name}: its logits hold NaN or infinity")
    return log_softmax(logits)


def log_softmax(logits: Logits) -> LogProbabilities:
    """Return the logarithm of the softmax of each row."""
    result = np.empty_like(logits)
    for start in range(0, len(logits), BLOCK):
        block = logits[start : start + BLOCK]
        shifted = result[start : start + BLOCK]
        np.subtract(block, block.max(axis=1, keepdims=True), out=shifted)
        shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def scores(
    candidate: LogProbabilities, source: LogProbabilities, targets: Sequence[int]
) -> tuple[float, float, float, float]:
    """Return the means over positions of both losses, KL(source || candidate) and agreement.

    Both arrays have shape (len(targets), vocabulary). Raises StropError when the vocabularies
    differ in size.
    """
    if candidate.shape != source.shape:
        raise StropError(
            f"the vocabularies differ in size: {candidate.shape[1]} and {source.shape[1]} tokens"
        )
    positions = np.arange(len(targets))
    divergence, agreed = 0.0, 0
    for start in range(0, len(targets), BLOCK):
        q, p = candidate[start : start + BLOCK], source[start : start + BLOCK]
        divergence += float((np.exp(p) * (p - q)).sum(axis=1).sum(dtype=np.float64))
        agreed += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
    return (
        -float(candidate[positions, targets].mean(dtype=np.float64)),
        -float(source[positions, targets].mean(dtype=np.float64)),
        divergence / len(targets),
        agreed / len(targets),
    )
