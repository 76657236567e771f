"""Recipes: stages in a YAML file, a run directory that resumes, and a report."""

from strop.recipes.recipe import Recipe, load_recipe
from strop.recipes.report import sections
from strop.recipes.run import run_recipe
from strop.recipes.stage import Context, Finished, Headline, Output, Section, Stage
from strop.recipes.stages import STAGES

__all__ = [
    "STAGES",
    "Context",
    "Finished",
    "Headline",
    "Output",
    "Recipe",
    "Section",
    "Stage",
    "load_recipe",
    "run_recipe",
    "sections",
]
