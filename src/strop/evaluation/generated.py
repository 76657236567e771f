"""Rows of tasks that are made: as many as are wanted, and equal for equal seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from strop.errors import StropError, failed_import
from strop.evaluation.instructions import written_instructions

Rows = list[dict[str, Any]]

REASONING = "reasoning-gym"


def instructions(settings: Mapping[str, Any], size: int, seed: int) -> Rows:
    """Make prompts with instructions that a program checks."""
    if settings:
        raise StropError(f"the generator instructions knows no {', '.join(settings)}")
    return written_instructions(size, seed)


def reasoning(settings: Mapping[str, Any], size: int, seed: int) -> Rows:
    """Make questions of a data set of the library reasoning-gym, such as chain_sum.

    Its own judges of answers are not used: several run what a model wrote as Python, in this
    process.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise failed_import(error, ("reasoning_gym",), "eval") from error
    others = dict(settings)
    name = others.pop("name", None)
    try:
        made = reasoning_gym.create_dataset(str(name), size=size, seed=seed, **others)
        return [{"question": one["question"], "answer": str(one["answer"])} for one in made]
    except (ValueError, TypeError, AssertionError) as error:
        raise StropError(f"{REASONING}: {name}: {error}") from error


GENERATORS: dict[str, Callable[[Mapping[str, Any], int, int], Rows]] = {
    "instructions": instructions,
    REASONING: reasoning,
}


def generated(name: str, data: Mapping[str, Any], limit: int = 0) -> Rows:
    """Make the rows of a task. Raises StropError for settings that are none."""
    settings = dict(data)
    numbers = [settings.pop(key, None) for key in ("size", "seed")]
    if not all(type(one) is int and one >= 0 for one in numbers) or not numbers[0]:
        raise StropError(f"the generator {name} needs a size and a seed")
    return GENERATORS[name](settings, *numbers)[: limit or None]
