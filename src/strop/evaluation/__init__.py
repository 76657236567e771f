"""Measuring what a change to a model did to it."""

from strop.evaluation.check import CheckResult, check
from strop.evaluation.text import default_text

__all__ = ["CheckResult", "check", "default_text"]
