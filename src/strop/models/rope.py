"""Rotary position embedding: the angle by which each pair of a head's elements turns per token.

Pair i of a head of d elements turns by position * theta**(-2i/d) (Su et al. 2021). Long-context
models slow some pairs down; the rules are those of transformers (modeling_rope_utils.py), computed
in float64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from strop.models.config_fields import Fields


@dataclass(frozen=True)
class Rope:
    """How positions turn queries and keys."""

    frequencies: tuple[float, ...]  #: radians per token of each pair (head_dim / 2 of them)
    scale: float = 1.0  #: cosines and sines are multiplied by it (YaRN's attention factor)


def read_rope(config: Fields, head_dim: int, context: int, default_theta: float) -> Rope:
    """Read the rotary embedding of a config.json, in its present or its older spelling.

    Raises StropError for types and options that the engine does not have, and for bad values.
    """
    rope = config.object("rope_scaling" if config.values.get("rope_scaling") else "rope_parameters")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if any(isinstance(value, dict) for value in rope.values.values()):
        raise config.unsupported("a rotary embedding that differs between layer types")
    if not isinstance(kind, str) or kind not in RULES:
        raise config.unsupported(f"rotary embeddings of type {kind!r:.40}")
    for fields in (rope, config):
        if fields.number("partial_rotary_factor", 1.0) != 1.0:
            raise config.unsupported("rotary embeddings of a part of each head")
    theta = rope.number("rope_theta", config.number("rope_theta", default_theta))
    if theta <= 1:
        raise rope.error("rope_theta", f"must be above 1, not {theta}")
    plain = [theta ** (-2 * pair / head_dim) for pair in range(head_dim // 2)]
    trained = rope.whole("original_max_position_embeddings", context)
    trained = config.whole("original_max_position_embeddings", trained)
    return RULES[kind](rope, plain, theta, trained, context)


def default(rope: Fields, plain: list[float], theta: float, trained: int, context: int) -> Rope:
    """Leave the frequencies as they are."""
    return Rope(tuple(plain))


def linear(rope: Fields, plain: list[float], theta: float, trained: int, context: int) -> Rope:
    """Slow all pairs down by the same factor (Chen et al. 2023)."""
    factor = rope.number("factor")
    return Rope(tuple(frequency / factor for frequency in plain))


def llama3(rope: Fields, plain: list[float], theta: float, trained: int, context: int) -> Rope:
    """Slow down the pairs that turn rarely within the context of training (Llama 3.1)."""
    factor = rope.number("factor")
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if high <= low:
        raise rope.error("high_freq_factor", f"must be above low_freq_factor ({low}), not {high}")

    def scaled(frequency: float) -> float:
        turns = trained * frequency / (2 * math.pi)
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        return (1 - share) * frequency / factor + share * frequency

    return Rope(tuple(map(scaled, plain)))


def yarn(rope: Fields, plain: list[float], theta: float, trained: int, context: int) -> Rope:
    """Slow down by a ramp over the pairs, and sharpen attention (Peng et al. 2023, YaRN)."""
    if "factor" not in rope.values:
        raise rope.error("factor", "is missing")
    factor = rope.number("factor", context / trained)
    pairs, width = len(plain), 2 * len(plain)

    def pair_of(turns: float) -> float:
        """Return the pair, a fraction maybe, that turns so often within `trained` tokens."""
        return width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = pair_of(rope.number("beta_fast", 32))
    high = pair_of(rope.number("beta_slow", 1))
    if rope.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    span = high - low or 0.001  # as transformers avoids a division by zero
    slowed = [min(max((pair - low) / span, 0.0), 1.0) for pair in range(pairs)]
    return Rope(
        tuple(
            frequency / factor * share + frequency * (1 - share)
            for frequency, share in zip(plain, slowed, strict=True)
        ),
        attention_factor(rope, factor),
    )


def attention_factor(rope: Fields, factor: float) -> float:
    """Return YaRN's scale of cosines and sines: given, or 0.1 ln(factor) + 1."""

    def magnitude(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.values.get("attention_factor") is not None:
        return rope.number("attention_factor")
    if rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        return magnitude(rope.number("mscale")) / magnitude(rope.number("mscale_all_dim"))
    return magnitude(1.0)


Rule = Callable[[Fields, list[float], float, int, int], Rope]

#: rope_type -> what it does to the frequencies
RULES: dict[str, Rule] = {"default": default, "linear": linear, "llama3": llama3, "yarn": yarn}
