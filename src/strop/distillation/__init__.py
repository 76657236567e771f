"""Draft heads made for a model: its own texts, the head that imitates it, and whether it pays."""

from strop.distillation.make import DraftReport, make_draft

__all__ = ["DraftReport", "make_draft"]
