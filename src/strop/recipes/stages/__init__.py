"""The kinds of stages: one file and one row of the table each."""

from strop.recipes.stage import Stage
from strop.recipes.stages.check import CHECK
from strop.recipes.stages.generate import GENERATE
from strop.recipes.stages.pack import PACK
from strop.recipes.stages.speed import SPEED

STAGES: dict[str, Stage] = {
    "pack": PACK,
    "check": CHECK,
    "generate": GENERATE,
    "speed": SPEED,
}

__all__ = ["STAGES"]
