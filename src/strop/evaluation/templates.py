"""Templates (Jinja) of prompts and answers, which are data: they cannot reach the program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from strop.errors import StropError

#: What a template can do wrong besides what Jinja calls an error
FAILURES = (
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    RecursionError,
    AttributeError,
    AssertionError,
)
LETTER = re.compile(r"^\s*[A-J][.)]\s*")


def filled(what: str, template: str, values: Mapping[str, Any]) -> str:
    """Fill a template; the values are never taken for parts of it.

    Raises StropError, which begins with `what`, for values that are missing or null.
    """
    from jinja2 import TemplateError

    try:
        return str(compiled(template).render(values))
    except (*FAILURES, TemplateError) as error:
        raise StropError(f"{what}: {error}") from error


@lru_cache(maxsize=64)
def compiled(template: str) -> Any:
    """Compile a template."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=present)
    environment.filters["without_letters"] = without_letters
    return environment.from_string(template)


def present(value: Any) -> Any:
    """Return a value that a template shows. Raises ValueError for null, as within a list."""
    if value is None:
        raise ValueError("null is no word")
    return value


def without_letters(text: str) -> str:
    """Return lines without the "A. " before them, and without empty ones."""
    lines = [LETTER.sub("", line).strip() for line in str(text).split("\n")]
    return "\n".join(line for line in lines if line)
