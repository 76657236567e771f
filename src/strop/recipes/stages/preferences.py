"""The stages `sample`, `rank`, `pairs` and `judge`: candidates, preferences, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from strop.data import read_rows
from strop.recipes.options import ModelReference, RankerReference, RowsFile, label
from strop.recipes.stage import (
    Context,
    Figure,
    Finished,
    Headline,
    Metrics,
    Output,
    Sample,
    Section,
    Stage,
    Table,
    Tile,
)
from strop.stage import ROWS
from strop.stats import Interval
from strop.svg import Whisker, whiskers

OUTPUT = "rows"  # directory of the rows
SHOWN = 3  # prompts whose answers the report shows


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


@dataclass(frozen=True)
class JudgeOptions:
    """Whose answers are compared."""

    candidate: RowsFile  #: answers of the new model: the output of a stage `sample`
    baseline: RowsFile  #: answers of the model before, to the same prompts
    ranker: RankerReference | None = None  #: one that did not build the pairs


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


def run_judge(options: JudgeOptions, context: Context) -> Metrics:
    """Judge answers."""
    from strop.tuning.judge import judge

    ranker = Path(options.ranker) if options.ranker else None
    output = context.directory / OUTPUT
    answers = Path(options.candidate), Path(options.baseline)
    return judge(*answers, output, ranker, work=context.work)


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


def describe_judge(options: JudgeOptions) -> str:
    """Say what the stage does."""
    return f"judge {label(options.candidate)} against {label(options.baseline)}"


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


def section_judge(stages: Sequence[Finished]) -> Section:
    """Report whether answers became better."""
    rows = [row for stage in stages for row in judge_rows(stage, len(stages) > 1)]
    rates = [one for stage in stages for one in rate_whiskers(stage)]
    figures = (
        (Figure("Share of prompts on which it wins", whiskers(rates, "percent", 50.0)),)
        if rates
        else ()
    )
    return Section(
        title="Verdict",
        summary=" ".join(map(verdict_sentence, stages)),
        tiles=tuple(
            Tile(f"{100 * stage.metrics['win_rate']['estimate']:.0f}%", f"{stage.name}: wins")
            for stage in stages
            if "win_rate" in stage.metrics
        ),
        headline=tuple(rows),
        figures=figures,
        samples=tuple(sample for stage in stages for sample in shown(stage)),
        notes=(
            "Intervals are over prompts: of wins Wilson's, of the rest bootstraps. The rate at "
            "equal lengths is what a logistic regression on quality and length leaves to quality.",
        ),
        caveats=tuple(
            f"{stage.name} was judged by a ranker, which is a model and errs: read the samples "
            "beside it, and the overlap with reference answers where there are some."
            for stage in stages
            if "win_rate" in stage.metrics
        ),
    )


def verdict_sentence(stage: Finished) -> str:
    """Sum up one verdict."""
    m = stage.metrics
    told = f"{label(stage.options.candidate)} against {label(stage.options.baseline)}: "
    parts = []
    if "win_rate" in m:
        rate = m["win_rate"]
        parts.append(
            f"wins {100 * rate['estimate']:.0f}% of {rate['n']} prompts, {rate['verdict']}"
        )
    if "overlap" in m:
        parts.append(f"overlap with references {m['overlap']['verdict']}")
    return f"{told}{'; '.join(parts)}; {m['diagnosis']}."


def judge_rows(stage: Finished, several: bool) -> list[Headline]:
    """Return the rows of the table at the top."""
    m, tail = stage.metrics, f" ({stage.name})" if several else ""
    rows = []
    for key, words in (("win_rate", "Wins"), ("length_controlled", "Wins at equal lengths")):
        if key in m:
            rate = m[key]
            found = interval(rate).scaled(100)
            rows.append(
                Headline(words + tail, "50%", f"{found:.0f}%", "", rate["verdict"], str(found.n))
            )
    for key, words, digits in (
        ("overlap", "Overlap with references", ".3f"),
        ("tokens", "Tokens of an answer", ".1f"),
        ("repeated", "Repeated 4-grams", ".3f"),
        ("ended", "Answers that ended by themselves", ".3f"),
    ):
        if key in m:
            before, after, change = (
                interval(m[key][name]) for name in ("baseline", "candidate", "difference")
            )
            rows.append(
                Headline(
                    words + tail,
                    format(before.estimate, digits),
                    format(after.estimate, digits),
                    format(change, f"+{digits}"),
                    m[key].get("verdict", ""),
                    str(change.n),
                )
            )
    return rows


def rate_whiskers(stage: Finished) -> list[Whisker]:
    """Return the win rates as rows of a plot."""
    found = []
    for key, words in (("win_rate", "wins"), ("length_controlled", "equal length")):
        if key in stage.metrics:
            rate = interval(stage.metrics[key]).scaled(100)
            found.append(Whisker(words, rate.estimate, rate.low, rate.high, f"{rate:.0f}%"))
    return found


def interval(value: dict[str, float]) -> Interval:
    """Return an interval of the metrics."""
    return Interval(**{key: one for key, one in value.items() if key != "verdict"})  # type: ignore[arg-type]


def shown(stage: Finished) -> list[Sample]:
    """Return some answers side by side."""
    rows = read_rows(stage.directory / OUTPUT / ROWS)[:SHOWN]
    names = [label(one) for one in (stage.options.candidate, stage.options.baseline)]
    return [
        Sample(prompt_text(row["prompt"]), tuple(zip(names, row["answers"], strict=True)))
        for row in rows
    ]


def prompt_text(prompt: str | list[dict[str, str]]) -> str:
    """Return a prompt as text."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


SAMPLE = Stage(SampleOptions, run_sample, describe_sample, section_sample, Output(OUTPUT, RowsFile))
RANK = Stage(RankOptions, run_rank, describe_rank, section_rank, Output(OUTPUT, RowsFile))
PAIRS = Stage(PairsOptions, run_pairs, describe_pairs, section_pairs, Output(OUTPUT, RowsFile))
JUDGE = Stage(JudgeOptions, run_judge, describe_judge, section_judge)
