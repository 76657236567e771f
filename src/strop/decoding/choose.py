"""Which drafters guess for a model: by name, by path, or those that cannot hurt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from strop.console import say
from strop.decoding.costs import known_costs
from strop.decoding.draft_model import NestedDrafter, model_drafter
from strop.decoding.drafters import Drafter
from strop.decoding.head import HeadDrafter
from strop.decoding.lookup import Lookup
from strop.decoding.planner import Planner
from strop.errors import StropError, unknown_name
from strop.models import load
from strop.models.draft_head import is_draft_head
from strop.models.interface import Model

DRAFTERS = ("auto", "lookup", "nested", "none")  #: what a user may choose, besides a path
BESIDE = "draft"  #: where `strop draft` puts a head, in the model's directory


def planner_for(
    model: Model, drafter: str = "auto", prediction: Sequence[int] = ()
) -> Planner | None:
    """Return what guesses for a model; None: nothing does.

    `drafter` is "lookup", "nested" (the upper plane of a bfp8n model), "none", the path of a draft
    head or of a model, or "auto": lookup, and the head that lies beside the model. On backends
    whose logits depend on the number of rows, guesses could change a text where two tokens are
    almost equally likely: auto is none there. `prediction` is a text that the caller expects.
    Raises StropError for another name, and for what cannot guess for this model.
    """
    if drafter == "none" or (drafter == "auto" and model.backend != "native"):
        return None
    return Planner(known_costs(model), drafters_for(model, drafter, prediction))


def drafters_for(model: Model, name: str, prediction: Sequence[int]) -> list[Drafter]:
    """Return the drafters that a name stands for; lookup is always among them, as it is free."""
    lookup = Lookup()
    if prediction:
        lookup.expect(prediction)
    if name == "lookup":
        return [lookup]
    if name == "nested":
        return [lookup, NestedDrafter(model)]
    beside = model.directory / BESIDE
    if name == "auto":
        try:
            return [lookup, HeadDrafter(beside, model)] if is_draft_head(beside) else [lookup]
        except StropError as error:
            say(f"going on without the draft head: {error}")
            return [lookup]
    path = Path(name)
    if is_draft_head(path):
        return [lookup, HeadDrafter(path, model)]
    if not path.exists():
        raise unknown_name("drafter", name, DRAFTERS)
    return [lookup, model_drafter(load(name), model)]
