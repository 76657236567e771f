"""Model references, loading and the interface that everything else works with."""

from strop.models.cache import cache_directory
from strop.models.checkpoint import Checkpoint, open_checkpoint
from strop.models.interface import Logits, Model, Session
from strop.models.load import load
from strop.models.references import ALIASES, resolve
from strop.models.tokenizer import Tokenizer

__all__ = [
    "ALIASES",
    "Checkpoint",
    "Logits",
    "Model",
    "Session",
    "Tokenizer",
    "cache_directory",
    "load",
    "open_checkpoint",
    "resolve",
]
