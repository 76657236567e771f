"""strop rate, score, select and how-many: which examples to train on, and how many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strop.cli.options import Chosen, named_numbers, with_endpoint
from strop.console import say
from strop.errors import StropError, unknown_name

Data = Annotated[Path, typer.Argument(help="JSON lines: prompts or instructions, and answers.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")]
Limit = Annotated[int, typer.Option(help="Take the first so many rows; 0: all.", min=0)]


@with_endpoint
def rate(
    data: Data,
    rater: Annotated[
        str,
        typer.Option(help="Model that rates: as for strop generate, or http://host/v1#name."),
    ],
    output: Output,
    endpoint: Chosen,
    rubric: Annotated[
        str,
        typer.Option(
            help="accuracy, helpfulness, complexity, quality, or a YAML file of your own."
        ),
    ] = "accuracy",
    limit: Limit = 0,
) -> None:
    """Rate each row with a language model: from 0 to 5, complexity and quality from 1 to 6.

    The grade is read from the reply, and as the mean over the probabilities of all grades. A reply
    without a grade leaves its row unrated: there is no default. Everything that was replied is in
    OUTPUT/ratings.jsonl. Killed, stopped or cut off by an endpoint, the same command goes on; the
    key of an endpoint comes from STROP_API_KEY or OPENAI_API_KEY.

    [bold]Examples[/bold]

      strop rate raw.jsonl --rater small -o rated

      strop rate raw.jsonl --rater https://host/v1#model --per-minute 60 --rubric mine.yaml -o rated
    """
    from strop.lm import RemoteConfig
    from strop.selection.rate import rate as run
    from strop.selection.rate import spelled

    facts = run(data, rater, output, rubric, RemoteConfig(**endpoint), limit)
    print(spelled(facts))
    say(f"written to {output}")


def score(
    data: Data,
    output: Output,
    scores: Annotated[
        str,
        typer.Option(
            help="By commas: length, prompt-length, loss, perplexity, ifd, ifd-perplexity, target, "
            "influence, reward."
        ),
    ] = "length,ifd",
    model: Annotated[
        str | None,
        typer.Option(help="Model that reads the rows, or is trained on some for influence."),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(help="Rows like those that the model is for, for target and influence."),
    ] = None,
    ranker: Annotated[
        Path | None,
        typer.Option(help="What strop tune ranker --pointwise wrote, for reward."),
    ] = None,
    limit: Limit = 0,
) -> None:
    """Score each row without a rater: lengths, losses, what its prompt does for its answer, ...

    ifd is the loss of the answer after the prompt over its loss alone: above 1 the prompt does not
    help, just below 1 there is most to learn. A packed model is fastest, see strop pack. influence
    says whether training on the row lowers the loss on the target; it takes a training step a row.

    [bold]Examples[/bold]

      strop score raw.jsonl --scores ifd,length --model small -o scored

      strop score raw.jsonl --scores influence --model smollm2 --target wanted.jsonl -o scored

      strop score raw.jsonl --scores reward --ranker scorer -o scored
    """
    from strop.selection.scores import score as run
    from strop.selection.scores import spelled

    names = [name.strip() for name in scores.split(",") if name.strip()]
    print(spelled(run(data, names, output, model, target, ranker, limit)))
    say(f"written to {output}")


def select(
    data: Data,
    output: Output,
    by: Annotated[
        str,
        typer.Option(
            help="Score that ranks rows, highest first; -NAME: lowest first; a*b: their product. "
            "Or random, k-center, facility-location."
        ),
    ] = "random",
    keep: Annotated[int, typer.Option(help="Rows to keep; 0: all that are left.", min=0)] = 0,
    least: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER: drop rows whose score is lower.")
    ] = None,
    most: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER: drop rows whose score is higher.")
    ] = None,
    per_category: Annotated[
        int, typer.Option(help="Rows to keep of a category, at most; 0: no quota.", min=0)
    ] = 0,
    duplicates: Annotated[
        bool, typer.Option(help="Whether near-duplicates of better rows are kept.")
    ] = False,
    distinct: Annotated[
        float, typer.Option(help="Drop rows whose cosine to one that is kept is larger; 1: none.")
    ] = 1.0,
    model: Annotated[
        str, typer.Option(help="Model that embeds rows, for distinct, k-center and the like.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of random choices.", min=0)] = 0,
) -> None:
    """Choose rows by their scores; each that is dropped has a reason, in OUTPUT/dropped.jsonl.

    A row without a score that is asked for is dropped. OUTPUT/report.md says what changed: lengths,
    categories, and rows at the border. Compare with --by random, which is hard to beat.

    [bold]Examples[/bold]

      strop select rated --by accuracy --least accuracy=4.5 --keep 1000 -o chosen

      strop select scored --by ifd --most ifd=1 --keep 1000 --per-category 200 -o chosen

      strop select rated --by accuracy --distinct 0.9 --model small --keep 1000 -o chosen
    """
    from strop.selection.select import SelectConfig, spelled
    from strop.selection.select import select as run

    example = "a score and a number, such as ifd=1"
    config = SelectConfig(
        by=by,
        keep=keep,
        least=named_numbers("--least", least, example),
        most=named_numbers("--most", most, example),
        per_category=per_category,
        duplicates=duplicates,
        distinct=distinct,
        model=model,
        seed=seed,
    )
    print(spelled(run(data, output, config)))
    say(f"written to {output}; look at {output / 'report.md'}")


def how_many(
    data: Annotated[
        Path | None, typer.Argument(help="JSON lines: prompts or instructions, and answers.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to train, with adapters.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to write.")
    ] = None,
    halvings: Annotated[
        int, typer.Option(help="How often the examples are halved: 5 is down to 1/32.", min=2)
    ] = 5,
    seeds: Annotated[
        int, typer.Option(help="Runs of each size; three are needed for an answer.", min=1)
    ] = 3,
    seed: Annotated[int, typer.Option(help="The first of them.", min=0)] = 0,
    arms: Annotated[
        str, typer.Option(help="What all sizes have in common: epochs, steps, or both by a comma.")
    ] = "epochs,steps",
    epochs: Annotated[float, typer.Option(help="How often all of the examples are read.")] = 1.0,
    batch: Annotated[int, typer.Option(help="Examples between two updates.", min=1)] = 16,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 2e-4,
    difference: Annotated[
        float,
        typer.Option(
            help="Instead: how many test prompts show a win rate that is so far from one half, or "
            "accuracies that differ by so much?"
        ),
    ] = 0.0,
    of: Annotated[
        str, typer.Option(help="What the difference is of: win-rate, or accuracy of two models.")
    ] = "win-rate",
    ties: Annotated[
        float,
        typer.Option(
            help="Share of ties among the verdicts; of accuracies, of prompts on which both models "
            "are right or both wrong.",
            min=0,
            max=0.99,
        ),
    ] = 0.3,
    within: Annotated[
        float,
        typer.Option(help="Instead: how many test prompts give an accuracy to within so much?"),
    ] = 0.0,
) -> None:
    """Say how many examples are enough, with an interval, or that it cannot be told.

    Trains on nested subsets, several times each, with equal epochs and with equal steps, and finds
    the size that gives 95% of what all of the examples give. Killed or stopped, the same command
    goes on; with more seeds it makes only those runs. With --difference or --within it trains
    nothing, and says how many prompts a test needs.

    [bold]Examples[/bold]

      strop how-many chosen --model smollm2 -o enough

      strop how-many --difference 0.05 --ties 0.3

      strop how-many --difference 0.05 --of accuracy --ties 0.6
    """
    if difference or within:
        if data or model or output:
            raise StropError("--difference and --within train nothing: leave out the data")
        print(prompts_needed(difference, of, ties, within))
        return
    from strop.selection.how_many import HowManyConfig, spelled
    from strop.selection.how_many import how_many as run
    from strop.training.schedule import TrainingConfig

    if data is None or model is None or output is None:
        raise StropError("name the data, a --model and, with -o, a directory to write")
    training = TrainingConfig(learning_rate=learning_rate, epochs=epochs, batch=batch)
    chosen = tuple(name.strip() for name in arms.split(",") if name.strip())
    config = HowManyConfig(halvings, seeds, seed, chosen, training=training)
    print(spelled(run(model, data, output, config)))
    say(f"written to {output}; look at {output / 'curves.svg'}")


def prompts_needed(difference: float, of: str, ties: float, within: float) -> str:
    """Say how many prompts show a difference, or give an accuracy to within so much."""
    from strop.stats import needed_for_width, needed_verdicts

    if difference and within:
        raise StropError("--difference or --within: ask one of them")
    if within:
        count = needed_for_width(within)
        return f"{count:,} prompts give an accuracy of one half to within {within:g} (95% interval)"
    # A prompt on which one of two models alone is right is won; accuracies differ by the wins less
    # the losses, a win rate from one half by half of that.
    parts = {"win-rate": 1.0, "accuracy": 0.5}
    if of not in parts:
        raise unknown_name("--of", of, parts)
    away, most = difference * parts[of], (1 - ties) / 2
    if not abs(away) < most:
        raise StropError(
            f"--difference {difference:g} with --ties {ties:g}: with so many ties "
            + (
                f"a win rate is less than {most:g} away from one half"
                if of == "win-rate"
                else f"accuracies differ by less than {2 * most:g}"
            )
        )
    count = needed_verdicts(0.5 + away / (1 - ties), ties)
    shown = f"a net win rate of {0.5 + difference:g}"
    if of == "accuracy":
        shown = f"that accuracies differ by {abs(difference):g}"
    return (
        f"{count:,} prompts show {shown} in 80 of 100 studies "
        f"(95% intervals, {100 * ties:.0f}% ties)"
    )
