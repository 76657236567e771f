"""Where a model, answers or pairs come from: what must not be judged by, or on.

Every stage of tuning hands on which prompts were trained on, and which rankers built pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from strop.data import read_json, sha256_file, sha256_json, write_json
from strop.errors import StropError
from strop.models.adapters import ORIGINS
from strop.models.identity import model_identity
from strop.stage import ROWS

RANKER = "ranker.json"  #: in a ranker's directory: what kind it is


@dataclass(frozen=True)
class Origins:
    """What went into something."""

    prompts: frozenset[str] = frozenset()  #: hashes of prompts that were trained on
    rankers: frozenset[str] = frozenset()  #: hashes of rankers that built pairs

    def __or__(self, other: Origins) -> Origins:
        return Origins(self.prompts | other.prompts, self.rankers | other.rankers)

    def write(self, directory: Path) -> None:
        """Write them into a stage's directory."""
        value = {"prompts": sorted(self.prompts), "rankers": sorted(self.rankers)}
        write_json(directory / ORIGINS, value)


def origins_of(places: Iterable[Path]) -> Origins:
    """Read what stages handed on, all together; what is of no stage has no origins."""
    found = Origins()
    for place in places:
        path = (place.parent if place.name == ROWS else place) / ORIGINS
        if not path.is_file():
            continue
        value = read_json(path)
        try:
            found |= Origins(frozenset(value["prompts"]), frozenset(value["rankers"]))
        except (TypeError, KeyError) as error:
            raise StropError(f"{path} is damaged: make its directory again") from error
    return found


def ranker_hash(directory: Path) -> str:
    """Identify a ranker by its weights, its base, and how it asks; StropError if it is none."""
    if not (directory / RANKER).is_file():
        raise StropError(f"{directory}: is not a ranker, which strop tune ranker makes")
    return sha256_json([model_identity(str(directory)), sha256_file(directory / RANKER)])
