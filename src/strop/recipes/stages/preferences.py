"""The stages `sample`, `rank` and `pairs`: candidates, and preferences between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from strop.recipes.options import ModelReference, RankerReference, RowsFile, label
from strop.recipes.stage import (
    Context,
    Finished,
    Metrics,
    Output,
    Section,
    Stage,
    Table,
)

OUTPUT = "rows"  # directory of the rows


@dataclass(frozen=True)
class SampleOptions:
    """What to ask, and how often."""

    model: ModelReference  #: what answers
    data: RowsFile  #: JSON lines with a prompt in each
    columns: dict[str, str] = field(default_factory=dict)  #: what the data calls its columns
    n: int = 8  #: answers to each prompt
    temperature: float = 0.7  #: 0 always takes the most likely token
    top_k: int = 40  #: choose among so many of the most likely tokens; 0: all
    max_tokens: int = 256  #: longer answers are cut

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        from strop.tuning.sample import SampleConfig

        SampleConfig(self.n, self.temperature, self.top_k, self.max_tokens)


@dataclass(frozen=True)
class RankOptions:
    """What ranks, and what is ranked."""

    ranker: RankerReference  #: the output of a stage `ranker`
    samples: RowsFile  #: the output of a stage `sample`


@dataclass(frozen=True)
class PairsOptions:
    """What pairs are made of."""

    ranked: RowsFile | None = None  #: the output of a stage `rank`
    preferences: RowsFile | None = None  #: JSON lines with prompt, chosen, rejected
    columns: dict[str, str] = field(default_factory=dict)  #: what the preferences call theirs
    least_margin: float = 0.05  #: of probabilities, below which two candidates are a tie
    reference: str = "given"  #: what is learned to write: the data's answer, or the best candidate
    pairs: int = 0  #: from a prompt whose candidates have scores; 0: one less than candidates

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range, and where there is nothing to pair."""
        from strop.errors import StropError
        from strop.tuning.pairs import PairsConfig

        PairsConfig(self.least_margin, self.reference, self.pairs)
        if self.ranked is None and self.preferences is None:
            raise StropError("pairs are made of 'ranked' candidates, of 'preferences', or both")


def run_sample(options: SampleOptions, context: Context) -> Metrics:
    """Draw candidates."""
    from strop.tuning.sample import SampleConfig, sample

    config = SampleConfig(
        options.n, options.temperature, options.top_k, options.max_tokens, context.seed
    )
    output = context.directory / OUTPUT
    columns = options.columns or None
    return sample(options.model, Path(options.data), output, config, columns, context.work)


def run_rank(options: RankOptions, context: Context) -> Metrics:
    """Rank candidates."""
    from strop.tuning.rank import rank

    output = context.directory / OUTPUT
    return rank(Path(options.ranker), Path(options.samples), output, context.work)


def run_pairs(options: PairsOptions, context: Context) -> Metrics:
    """Make pairs."""
    from strop.tuning.pairs import PairsConfig, pairs

    sources = [Path(one) for one in (options.ranked, options.preferences) if one is not None]
    config = PairsConfig(options.least_margin, options.reference, options.pairs, context.seed)
    output = context.directory / OUTPUT
    return pairs(sources, output, config, options.columns or None, context.work)


def describe_sample(options: SampleOptions) -> str:
    """Say what the stage does."""
    answers = "1 answer" if options.n == 1 else f"{options.n} answers"
    return f"{answers} of {label(options.model)} to each prompt of {label(options.data)}"


def describe_rank(options: RankOptions) -> str:
    """Say what the stage does."""
    return f"rank the answers of {label(options.samples)} with {label(options.ranker)}"


def describe_pairs(options: PairsOptions) -> str:
    """Say what the stage does."""
    sources = [label(one) for one in (options.ranked, options.preferences) if one is not None]
    return f"make preference pairs of {' and '.join(sources)}"


def section_sample(stages: Sequence[Finished]) -> Section:
    """Report what was written."""
    rows = tuple(
        (
            stage.name,
            f"{stage.metrics['prompts']}",
            f"{stage.metrics['answers']}",
            f"{stage.metrics['different']}",
            f"{stage.metrics['ended']}",
            f"{stage.metrics['mean_tokens']:.1f}",
        )
        for stage in stages
    )
    columns = ("Stage", "Prompts", "Answers", "Different", "Ended", "Tokens each")
    return Section("Answers", "", tables=(Table(columns, rows),))


def section_rank(stages: Sequence[Finished]) -> Section:
    """Report what was ranked."""
    rows = tuple(
        (
            stage.name,
            stage.metrics["kind"],
            f"{stage.metrics['ranked']}",
            f"{stage.metrics['left_out']}",
        )
        for stage in stages
    )
    return Section("Ranking", "", tables=(Table(("Stage", "Kind", "Ranked", "Left out"), rows),))


def section_pairs(stages: Sequence[Finished]) -> Section:
    """Report what pairs there are."""
    rows = tuple(
        (
            stage.name,
            f"{stage.metrics['pairs']}",
            f"{stage.metrics['prompts']}",
            f"{stage.metrics['rejected']}",
            f"{stage.metrics['chosen_characters']:.0f}",
            f"{stage.metrics['rejected_characters']:.0f}",
        )
        for stage in stages
    )
    columns = ("Stage", "Pairs", "Prompts", "Left out", "Chosen, characters", "Rejected")
    return Section(
        "Pairs",
        "",
        tables=(Table(columns, rows),),
        notes=("Where chosen answers are longer than rejected ones, tuned models write longer.",),
    )


SAMPLE = Stage(SampleOptions, run_sample, describe_sample, section_sample, Output(OUTPUT, RowsFile))
RANK = Stage(RankOptions, run_rank, describe_rank, section_rank, Output(OUTPUT, RowsFile))
PAIRS = Stage(PairsOptions, run_pairs, describe_pairs, section_pairs, Output(OUTPUT, RowsFile))
