"""The kinds of stages: one row of the table each."""

from strop.recipes.stage import Stage
from strop.recipes.stages.check import CHECK
from strop.recipes.stages.evaluate import EVAL
from strop.recipes.stages.generate import GENERATE
from strop.recipes.stages.how_many import HOW_MANY
from strop.recipes.stages.judge import JUDGE
from strop.recipes.stages.mix import MIX, TRAIN
from strop.recipes.stages.pack import PACK
from strop.recipes.stages.preferences import PAIRS, RANK, SAMPLE
from strop.recipes.stages.selection import RATE, SCORE, SELECT
from strop.recipes.stages.speed import SPEED
from strop.recipes.stages.trial import TRIAL
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
    "trial": TRIAL,
    "how-many": HOW_MANY,
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
