"""The stage `judge`: whether the answers of one model are better than those of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from strop.data import read_rows
from strop.evaluation.pairwise import MOST_CONFLICTS
from strop.lm import RemoteConfig
from strop.recipes.options import LanguageModelReference, RankerReference, RowsFile, label
from strop.recipes.stage import (
    Context,
    Figure,
    Finished,
    Headline,
    Metrics,
    Sample,
    Section,
    Stage,
    Tile,
)
from strop.stage import ROWS
from strop.stats import Interval
from strop.svg import Whisker, whiskers

OUTPUT = "rows"  # directory of the rows
SHOWN = 3  # prompts whose answers the report shows


@dataclass(frozen=True)
class JudgeOptions:
    """Whose answers are compared."""

    candidate: RowsFile  #: answers of the new model: the output of a stage `sample`
    baseline: RowsFile  #: answers of the model before, to the same prompts
    ranker: RankerReference | None = None  #: one that did not build the pairs
    #: language model that judges, or an endpoint, http://host/v1#name
    judge: LanguageModelReference | None = None
    #: share of pairs on which its replies change with the order, above which it has no verdict
    most_conflicts: float = MOST_CONFLICTS
    endpoint: RemoteConfig = field(default_factory=RemoteConfig)  #: how one is used


def run_judge(options: JudgeOptions, context: Context) -> Metrics:
    """Judge answers."""
    from strop.tuning.judge import judge

    ranker = Path(options.ranker) if options.ranker else None
    output = context.directory / OUTPUT
    answers = Path(options.candidate), Path(options.baseline)
    facts = judge(
        *answers,
        output,
        ranker,
        options.judge,
        options.most_conflicts,
        options.endpoint,
        context.work,
    )
    facts.get("judge", {}).pop("name", None)  # it may be a path, and is in the options
    return facts


def describe_judge(options: JudgeOptions) -> str:
    """Say what the stage does."""
    judges = [label(one) for one in (options.ranker, options.judge) if one is not None]
    by = f" by {' and '.join(judges)}" if judges else ""
    return f"judge {label(options.candidate)} against {label(options.baseline)}{by}"


def section_judge(stages: Sequence[Finished]) -> Section:
    """Report whether answers became better."""
    rows = [row for stage in stages for row in judge_rows(stage, len(stages) > 1)]
    rates = [rate_whisker(one) for stage in stages for one in win_rates(stage)]
    figures = (
        (Figure("Share of prompts on which it wins", whiskers(rates, "percent", 50.0)),)
        if rates
        else ()
    )
    return Section(
        title="Verdict",
        summary=" ".join(map(verdict_sentence, stages)),
        tiles=tuple(
            Tile(f"{one.share.estimate:.0f}%", f"{stage.name}: wins")
            for stage in stages
            for one in win_rates(stage)[:1]
        ),
        headline=tuple(rows),
        figures=figures,
        samples=tuple(sample for stage in stages for sample in shown(stage)),
        notes=(
            "Intervals are over prompts: of wins Tango's, of replies that change with the order "
            "Wilson's, of the rest bootstraps. The rate at equal lengths is what a logistic "
            "regression on quality and length leaves to quality, with the interval of that.",
        ),
        caveats=tuple(
            f"{stage.name} was judged by a model, which errs: read the samples beside it, and the "
            "overlap with reference answers where there are some."
            for stage in stages
            if win_rates(stage)
        ),
    )


@dataclass(frozen=True)
class Rate:
    """How often the new answers win."""

    words: str  #: what it is
    short: str  #: the same in a plot
    share: Interval  #: in per cent
    verdict: str  #: empty where none is given


def win_rates(stage: Finished) -> list[Rate]:
    """Return what the ranker found, and the judge."""
    m, found = stage.metrics, []
    for key, words, short in (
        ("win_rate", "Wins", "wins"),
        ("length_controlled", "Wins at equal lengths", "equal length"),
    ):
        if key in m:
            found.append(Rate(words, short, interval(m[key]).scaled(100), m[key]["verdict"]))
    if "judge" in m:
        every = m["judge"]["together"]
        for key, words, short, verdict in (
            ("net_win_rate", "Wins, by the judge", "judge: wins", every["verdict"]),
            ("length_controlled", "The same at equal lengths", "equal length", ""),
        ):
            found.append(Rate(words, short, interval(every[key]).scaled(100), verdict))
    return found


def verdict_sentence(stage: Finished) -> str:
    """Sum up one verdict."""
    m = stage.metrics
    told = f"{label(stage.options.candidate)} against {label(stage.options.baseline)}: "
    parts = [
        f"{rate.words[0].lower()}{rate.words[1:]}: {rate.share.estimate:.0f}% of {rate.share.n} "
        f"prompts, {rate.verdict}"
        for rate in win_rates(stage)
        if rate.verdict and "lengths" not in rate.words
    ]
    if "overlap" in m:
        parts.append(f"overlap with references {m['overlap']['verdict']}")
    return f"{told}{'; '.join(parts)}; {m['diagnosis']}."


def judge_rows(stage: Finished, several: bool) -> list[Headline]:
    """Return the rows of the table at the top."""
    m, tail = stage.metrics, f" ({stage.name})" if several else ""
    rows = [
        Headline(one.words + tail, "50%", f"{one.share:.0f}%", "", one.verdict, str(one.share.n))
        for one in win_rates(stage)
    ]
    if "judge" in m:
        found = interval(m["judge"]["conflicts"]).scaled(100)
        words = "Replies of the judge that change with the order"
        reading = "" if m["judge"]["reliable"] else "too many for a verdict"
        rows.append(Headline(words + tail, "", f"{found:.0f}%", "", reading, str(found.n)))
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


def rate_whisker(one: Rate) -> Whisker:
    """Return a win rate as a row of a plot."""
    share = one.share
    return Whisker(one.short, share.estimate, share.low, share.high, f"{share:.0f}%")


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


JUDGE = Stage(JudgeOptions, run_judge, describe_judge, section_judge)
