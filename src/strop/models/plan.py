"""Which format each matrix of a model takes."""

from __future__ import annotations

from dataclasses import dataclass

from strop.blockfp import FORMATS, Format, get_format
from strop.errors import unknown_name

KEEP = "keep"  #: in place of a format: leave a tensor as it is


@dataclass(frozen=True)
class Plan:
    """A format for all matrices, or one for the layers and one for embedding and head."""

    name: str  #: what users call it: a format, or two joined by a plus sign
    format: Format  #: of all matrices but these:
    embedding: Format  #: of embedding and head

    @classmethod
    def parse(cls, name: str) -> Plan:
        """Read "bfp4" or "bfp4+bfp6"; StropError names the nearest format if one is unknown."""
        first, _, second = name.partition("+")
        return cls(name, get_format(first), get_format(second or first))

    def of(self, kind: str) -> Format:
        """Return the format of a matrix of this kind (see `tensor_kind`)."""
        return self.embedding if kind in ("embedding", "head") else self.format


def tensor_format(name: str) -> Format | None:
    """Return the format that a user names for some tensors, None for "keep".

    Raises StropError, which names the nearest, if it is neither.
    """
    if name not in (*FORMATS, KEEP):
        raise unknown_name("format", name, [*FORMATS, KEEP])
    return None if name == KEEP else get_format(name)
