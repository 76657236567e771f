"""The kinds of stages: one row of the table each."""

from strop.recipes.stage import Stage
from strop.recipes.stages.check import CHECK
from strop.recipes.stages.generate import GENERATE
from strop.recipes.stages.mix import MIX, TRAIN
from strop.recipes.stages.pack import PACK
from strop.recipes.stages.preferences import JUDGE, PAIRS, RANK, SAMPLE
from strop.recipes.stages.selection import EVAL, RATE, SCORE, SELECT
from strop.recipes.stages.speed import SPEED
from strop.recipes.stages.tune import PREFERENCE, RANKER, SFT

STAGES: dict[str, Stage] = {
    "pack": PACK,
    "check": CHECK,
    "generate": GENERATE,
    "speed": SPEED,
    "mix": MIX,
    "train": TRAIN,
    "rate": RATE,
    "score": SCORE,
    "select": SELECT,
    "sft": SFT,
    "ranker": RANKER,
    "sample": SAMPLE,
    "rank": RANK,
    "pairs": PAIRS,
    "preference": PREFERENCE,
    "judge": JUDGE,
    "eval": EVAL,
}

__all__ = ["STAGES"]
