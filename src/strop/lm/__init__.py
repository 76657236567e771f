"""One interface for every model that answers and scores: here, or behind an endpoint."""

from strop.lm.interface import FAILED, Answer, Failed, LanguageModel, Scores
from strop.lm.local import LocalModel
from strop.lm.open import open_model
from strop.lm.remote import RemoteConfig, RemoteModel

__all__ = [
    "FAILED",
    "Answer",
    "Failed",
    "LanguageModel",
    "LocalModel",
    "RemoteConfig",
    "RemoteModel",
    "Scores",
    "open_model",
]
