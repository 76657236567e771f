"""Chat templates, rendered as transformers renders them but without it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from strop.errors import StropError

Message = Mapping[str, Any]  #: {"role": ..., "content": ...}


def render(
    template: str, messages: Sequence[Message], generation_prompt: bool, tokens: Mapping[str, str]
) -> str:
    """Render a conversation; `tokens` are the template's variables bos_token, eos_token, ...

    The template is code from whoever made the model: it runs in Jinja's immutable sandbox.
    Raises StropError when it does not compile or refuses the messages.
    """
    from jinja2 import TemplateError

    try:
        return str(
            compiled(template).render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=generation_prompt,
                **tokens,
            )
        )
    except TemplateError as error:
        raise StropError(f"the chat template failed: {error}") from error
    except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
        # What a template does to messages it did not expect, such as adding None to a string.
        raise StropError(f"the chat template cannot render these messages: {error}") from error


@lru_cache(maxsize=8)
def compiled(template: str) -> Any:
    """Compile a template with the options, filters and functions that model authors rely on."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationBlock(Extension):
        """`{% generation %}` marks what to train on; here its body is plain text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            """Return the body of the block."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlock]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment.from_string(template)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Format as JSON; Jinja's own filter would escape HTML characters."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def refuse(message: str) -> NoReturn:
    """Stop the rendering: templates call this on messages that the model was not trained for."""
    from jinja2 import TemplateError

    raise TemplateError(message)
