"""From a reference to a language model."""

from __future__ import annotations

from strop.lm.interface import LanguageModel
from strop.lm.local import LocalModel
from strop.lm.remote import RemoteConfig, RemoteModel, is_address
from strop.models import load


def open_model(
    reference: str, chat: bool = True, remote: RemoteConfig | None = None
) -> LanguageModel:
    """Open a model on this machine, by what `load` takes, or an endpoint, http://host/v1#name.

    Without `chat`, prompts of text are continued as they are.
    """
    if is_address(reference):
        return RemoteModel(reference, chat, remote or RemoteConfig())
    return LocalModel(load(reference), chat)
