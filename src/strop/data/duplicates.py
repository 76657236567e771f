"""Documents that are nearly the same, found by MinHash.

Two documents are the same here if four fifths of their runs of five words are, as far as 64 hashes
tell. (Broder 1997, "On the resemblance and containment of documents"; the library is datasketch.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strop.console import progress
from strop.errors import failed_import

WORDS, HASHES, ALIKE = 5, 64, 0.8


def repeated(texts: Sequence[str]) -> list[int | None]:
    """Return for each text the index of an earlier one that it repeats, or None.

    What an earlier one is compared with is only what is kept: of three alike the last two go.
    """
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        raise failed_import(error, ["datasketch"], "select") from error
    index = MinHashLSH(threshold=ALIKE, num_perm=HASHES)
    kept: dict[int, Any] = {}
    exact: dict[str, int] = {}
    found: list[int | None] = []
    with progress("looking for duplicates", len(texts), "documents") as advance:
        for place, text in enumerate(texts):
            advance(1)
            words = text.split()
            whole = " ".join(words)
            if whole in exact:
                found.append(exact[whole])
                continue
            sketch = MinHash(num_perm=HASHES)
            last = max(1, len(words) - WORDS + 1)
            runs = {" ".join(words[at : at + WORDS]).encode() for at in range(last)}
            sketch.update_batch(sorted(runs))
            alike = [one for one in index.query(sketch) if kept[one].jaccard(sketch) >= ALIKE]
            if alike:
                found.append(min(alike))
                continue
            found.append(None)
            exact[whole] = place
            kept[place] = sketch
            index.insert(place, sketch)
    return found
