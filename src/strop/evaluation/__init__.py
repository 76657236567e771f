"""Measuring models: what a change to one did, what it can do, and which answers are better."""

from strop.evaluation.check import CheckResult, check
from strop.evaluation.export import ExportReport, export
from strop.evaluation.formats import FormatRow, compare_formats, default_plans, write_csv
from strop.evaluation.formats_plot import check_plot, plot_formats
from strop.evaluation.speed import SpeedResult, measure_speed
from strop.evaluation.text import default_text

__all__ = [
    "CheckResult",
    "ExportReport",
    "FormatRow",
    "SpeedResult",
    "check",
    "check_plot",
    "compare_formats",
    "default_plans",
    "default_text",
    "export",
    "measure_speed",
    "plot_formats",
    "write_csv",
]
