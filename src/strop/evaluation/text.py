"""The text that models are measured on, and how it is cut into independent chunks."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from strop.errors import StropError, StropFailure
from strop.models.calibration import excerpts
from strop.models.tokenizer import Tokenizer

#: Fewer chunks than this give no honest interval: with 8 a 95% interval covers about 94%.
MIN_CHUNKS = 8

#: Of a text, for each token that is wanted: of a longer one, that many are read, from all over it.
LETTERS = 256

#: Parts of the standard library that some systems leave out, or that are no documentation.
SKIPPED = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages"})

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def default_text() -> str:
    """Return the documentation strings of Python's own standard library, about 1.6 MB of English.

    Every machine that runs Strop has it; it is the same for one version of Python. Raises
    StropFailure when the standard library has no sources here.
    """
    root = Path(sysconfig.get_path("stdlib"))
    strings: list[str] = []
    for path in sorted(root.rglob("*.py")):
        if SKIPPED.isdisjoint(path.relative_to(root).parts):
            strings.extend(documentation(ast.parse(path.read_bytes())))
    if not strings:
        raise StropFailure(f"no sources of the standard library in {root}: give a text of your own")
    return "\n\n".join(strings)


def documentation(node: Documented) -> Iterator[str]:
    """Yield the documentation strings of a module, class or function and of what it defines."""
    own = ast.get_docstring(node)
    if own:
        yield own
    for child in node.body:
        if isinstance(child, Documented):
            yield from documentation(child)


def cut(tokenizer: Tokenizer, text: str, tokens: int, chunk: int) -> list[list[int]]:
    """Cut `text` into contexts of `chunk` tokens, at most `tokens` in all.

    The text is tokenized once; what the tokenizer puts before a text (a begin-of-text token) goes
    before each chunk and counts towards its length. A text longer than `tokens` gives chunks spread
    evenly over it; a last piece shorter than a chunk is left out. Of a text of more than 256
    letters for each of `tokens`, only so many are read, in excerpts from all over it: a huge text
    takes no longer. Raises StropError for an empty text and for one of fewer than 8 chunks.
    """
    if not text.strip():
        raise StropError("the text is empty")
    prefix = tokenizer.encode("")
    length = chunk - len(prefix)
    if length < 2:
        raise StropError(f"a chunk needs at least {len(prefix) + 2} tokens, not {chunk}")
    if tokens < MIN_CHUNKS * chunk:
        raise StropError(
            f"{tokens} tokens are too few for an interval: measure at least {MIN_CHUNKS} chunks "
            f"of {chunk} tokens ({MIN_CHUNKS * chunk}), or take smaller chunks"
        )
    ids = tokenizer.encode(excerpts(text, LETTERS * tokens), special=False)
    available, wanted = len(ids) // length, tokens // chunk
    if available < MIN_CHUNKS:
        raise StropError(
            f"the text has {len(ids)} tokens, too few for an interval: at least {MIN_CHUNKS} "
            f"chunks of {chunk} tokens ({MIN_CHUNKS * length}) are needed; give more text or take "
            "smaller chunks"
        )
    count = min(available, wanted)
    starts = [index * available // count * length for index in range(count)]
    return [prefix + ids[start : start + length] for start in starts]
