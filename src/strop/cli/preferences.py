"""`strop sample`, `rank`, `pairs` and `judge`: from prompts to pairs, and the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from strop.cli.options import Chosen, Model, given_columns, with_endpoint
from strop.cli.tune import Columns, Output
from strop.console import say


def sample(
    model: Model,
    data: Annotated[Path, typer.Argument(help="JSON lines with a prompt in each.")],
    output: Output,
    n: Annotated[int, typer.Option("-n", help="Answers to each prompt.", min=1)] = 8,
    temperature: Annotated[
        float,
        typer.Option(help="Lower is safer, higher more varied; 0 always takes the likeliest."),
    ] = 0.7,
    top_k: Annotated[
        int, typer.Option(help="Choose among this many of the most likely tokens; 0: all.")
    ] = 40,
    max_tokens: Annotated[int, typer.Option(help="Cut longer answers.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.", min=0)] = 0,
    columns: Columns = None,
) -> None:
    """Let a model answer many prompts, several times each, on the engine in batch.

    A model that is not packed is packed first, in 8 bits. Killed or stopped, the same command goes
    on where it was.

    [bold]Examples[/bold]

      strop sample tuned prompts.jsonl -o candidates

      strop sample tuned prompts.jsonl -o answers -n 1 --temperature 0
    """
    from strop.tuning.sample import SampleConfig
    from strop.tuning.sample import sample as run

    config = SampleConfig(n, temperature, top_k, max_tokens, seed)
    facts = run(model, data, output, config, given_columns(columns))
    print(
        f"{facts['answers']} answers to {facts['prompts']} prompts, {facts['different']} of them "
        f"different, {facts['ended']} ended by themselves, {facts['mean_tokens']:.1f} tokens each"
    )
    say(f"written to {output}")


def rank(
    ranker: Annotated[Path, typer.Argument(help="What strop tune ranker wrote.")],
    samples: Annotated[Path, typer.Argument(help="What strop sample wrote.")],
    output: Output,
) -> None:
    """Let a ranker say which candidates are better.

    Pairwise in a tournament, m - 1 comparisons for m candidates; pointwise with a score for each.

    [bold]Example[/bold]

      strop rank ranker candidates -o ranked
    """
    from strop.tuning.rank import rank as run

    facts = run(ranker, samples, output)
    print(
        f"{facts['ranked']} candidates for {facts['prompts']} prompts ranked ({facts['kind']}), "
        f"{facts['left_out']} left out"
    )
    say(f"written to {output}")


def pairs(
    sources: Annotated[
        list[Path],
        typer.Argument(help="What strop rank wrote, or JSON lines with prompt, chosen, rejected."),
    ],
    output: Output,
    least_margin: Annotated[
        float, typer.Option(help="Pairs whose probabilities differ by less are ties.")
    ] = 0.05,
    reference: Annotated[
        str,
        typer.Option(help="What is learned to write: the answer given in the data, or the best."),
    ] = "given",
    number: Annotated[
        int,
        typer.Option(
            "--pairs",
            help="From each prompt whose candidates have scores.",
            show_default="one less than candidates",
            min=0,
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="For which pairs, where not all.", min=0)] = 0,
    columns: Columns = None,
) -> None:
    """Make preference pairs of ranked candidates, of given preferences, or of both.

    [bold]Examples[/bold]

      strop pairs ranked -o pairs

      strop pairs ranked preferences.jsonl -o mixed --reference best
    """
    from strop.tuning.pairs import PairsConfig
    from strop.tuning.pairs import pairs as run

    config = PairsConfig(least_margin, reference, number, seed)
    facts = run(sources, output, config, given_columns(columns))
    print(
        f"{facts['pairs']} pairs for {facts['prompts']} prompts, {facts['rejected']} left out; "
        f"chosen {facts['chosen_characters']:.0f} characters on average, rejected "
        f"{facts['rejected_characters']:.0f}"
    )
    say(f"written to {output}")


@with_endpoint
def judge(
    candidate: Annotated[
        str, typer.Argument(help="What strop sample wrote with the new model; or that model.")
    ],
    baseline: Annotated[str, typer.Argument(help="The same of the model before.")],
    output: Output,
    endpoint: Chosen,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Let the two models answer these; each file is a test set."),
    ] = None,
    ranker: Annotated[
        Path | None,
        typer.Option(help="A ranker that did not build the pairs, trained on other data."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--judge", help="A language model that judges, or http://host/v1#name."),
    ] = None,
    most_conflicts: Annotated[
        float,
        typer.Option(help="Share of pairs in which the judge may contradict itself.", min=0, max=1),
    ] = 0.3,
    max_tokens: Annotated[int, typer.Option(help="Of an answer to --prompts.", min=1)] = 256,
    columns: Columns = None,
) -> None:
    """Say whether the answers of one model are better than those of another, with intervals.

    By a ranker, or a language model that is asked in both orders, also at equal lengths; by overlap
    with reference answers, where the prompts came with some; and by lengths, loops and answers that
    did not end. A judge that mostly says in which order it was asked gets no verdict. Killed or cut
    off by an endpoint, the same command goes on; its key is in STROP_API_KEY or OPENAI_API_KEY.

    [bold]Examples[/bold]

      strop judge new-answers old-answers --ranker other-ranker -o verdict

      strop judge tuned smollm2 --prompts questions.jsonl --judge http://host/v1#name -o verdict
    """
    from strop.evaluation.pairwise import spelled
    from strop.lm import RemoteConfig
    from strop.tuning.judge import judge as run
    from strop.tuning.judge import judge_models

    remote = RemoteConfig(**endpoint)
    if prompts:
        facts = judge_models(
            (candidate, baseline),
            prompts,
            output,
            max_tokens,
            ranker=ranker,
            model=model,
            most_conflicts=most_conflicts,
            remote=remote,
            columns=given_columns(columns),
        )
    else:
        answers = Path(candidate), Path(baseline)
        facts = run(*answers, output, ranker, model, most_conflicts, remote)
    for name, words in (("win_rate", "win rate"), ("length_controlled", "at equal lengths")):
        if name in facts:
            rate = facts[name]
            print(f"{words}: {interval(rate, 100, '%')}: {rate['verdict']} (n = {rate['n']})")
    if "judge" in facts:
        print(spelled(facts["judge"]))
    for name in ("overlap", "tokens", "repeated", "ended"):
        if name in facts:
            found = facts[name]
            word = f": {found['verdict']}" if "verdict" in found else ""
            print(
                f"{name}: {found['candidate']['estimate']:.4g}, before "
                f"{found['baseline']['estimate']:.4g}, difference "
                f"{interval(found['difference'])}{word} (n = {found['difference']['n']})"
            )
    print(facts["diagnosis"])


def interval(value: dict[str, Any], factor: float = 1.0, unit: str = "") -> str:
    """Print an interval."""
    estimate, low, high = (factor * value[name] for name in ("estimate", "low", "high"))
    return f"{estimate:.3g}{unit} [{low:.3g}, {high:.3g}]"
