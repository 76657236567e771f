"""Model references, loading and the interface that everything else works with."""

from strop.models.cache import cache_directory
from strop.models.checkpoint import Checkpoint, open_checkpoint
from strop.models.interface import Logits, Model, Session
from strop.models.load import BACKENDS, load
from strop.models.pack_summary import PackedTensor, PackSummary, by_kind
from strop.models.packed import is_packed, tensor_kind
from strop.models.packing import pack, unpack
from strop.models.plan import Plan, tensor_format
from strop.models.references import ALIASES, resolve
from strop.models.tokenizer import Tokenizer

__all__ = [
    "ALIASES",
    "BACKENDS",
    "Checkpoint",
    "Logits",
    "Model",
    "PackSummary",
    "PackedTensor",
    "Plan",
    "Session",
    "Tokenizer",
    "by_kind",
    "cache_directory",
    "is_packed",
    "load",
    "open_checkpoint",
    "pack",
    "resolve",
    "tensor_format",
    "tensor_kind",
    "unpack",
]
