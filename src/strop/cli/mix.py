"""`strop mix`, `fit-mixture` and `train`: in which proportions to mix domains, and using them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from strop.cli.options import named_numbers
from strop.cli.tune import Output
from strop.console import say

RUNS = "Runs"  # heading of these options in --help

DomainsFile = Annotated[
    Path, typer.Argument(help="YAML that names the domains, and where their texts are.")
]
SizeOrModel = Annotated[
    str,
    typer.Option(
        "--model",
        help="From scratch: 0.2M, 0.5M, 1M, 3M, 6M, 10M or 20M weights; or a model to go on with, "
        "whose tokenizer the domains must name.",
        rich_help_panel=RUNS,
    ),
]
Tokens = Annotated[
    int, typer.Option(help="Of the run that the mixture is for.", min=1, rich_help_panel=RUNS)
]
ContextTokens = Annotated[
    int, typer.Option("--context", help="Tokens of a window.", min=8, rich_help_panel=RUNS)
]
Batch = Annotated[
    int, typer.Option(help="Windows between two updates.", min=1, rich_help_panel=RUNS)
]
Rate = Annotated[
    float | None,
    typer.Option(
        help="At its peak.",
        show_default="3e-3 from scratch, else 2e-4",
        rich_help_panel=RUNS,
    ),
]


ObjectiveName = Annotated[
    str,
    typer.Option(
        "--objective",
        help="What to make small: the mean loss of the domains, the worst, that of the target, or "
        "weighted (see --weight).",
    ),
]
LossWeights = Annotated[
    list[str] | None,
    typer.Option("--weight", help="What a domain's loss counts, such as code=2; can be repeated."),
]


def mix(
    domains: DomainsFile,
    output: Output,
    objective: ObjectiveName = "mean",
    method: Annotated[
        str,
        typer.Option(
            help="doremi, swarm, experts, random, online, or auto: doremi for the mean, online for "
            "the worst, experts for the others."
        ),
    ] = "auto",
    weight: LossWeights = None,
    tokens: Tokens = 1_000_000,
    search_tokens: Annotated[
        int | None,
        typer.Option(help="That each search may read.", show_default="as many as --tokens", min=1),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Searches, and runs of each mixture to compare.", min=1)
    ] = 3,
    swarm_runs: Annotated[
        int, typer.Option(help="Of a swarm.", show_default="2 more than domains, at least 8", min=0)
    ] = 0,
    rounds: Annotated[int, typer.Option(help="Of DoReMi.", min=1)] = 1,
    eta: Annotated[
        float,
        typer.Option(
            help="DoReMi and online weights move by eta / steps for a nat; online by 0.03 at most."
        ),
    ] = 50.0,
    pull: Annotated[
        float, typer.Option(help="Of swarm and experts towards natural weights; 0: none.", min=0)
    ] = 0.05,
    repetitions: Annotated[
        float, typer.Option(help="How often any domain may be read, at most.")
    ] = 4.0,
    processes: Annotated[
        int | None, typer.Option(help="Runs at a time.", show_default="one for each core", min=1)
    ] = None,
    model: SizeOrModel = "1M",
    context: ContextTokens = 256,
    batch: Batch = 16,
    learning_rate: Rate = None,
) -> None:
    """Find in which proportions to mix domains of training text, and measure whether it helped.

    A search finds a mixture; then runs of --tokens with it, and with uniform, natural, temperature
    and the best of random weights, are compared on text that nothing was chosen on. Killed or
    stopped, the same command goes on.

    [bold]Examples[/bold]

      strop mix domains.yaml -o mixed

      strop mix domains.yaml -o mixed --objective worst --method doremi --model 3M

      strop train domains.yaml --mixture mixed/mixture.json -o model
    """
    from strop.mixing.jobs import RunConfig
    from strop.mixing.methods import SearchConfig
    from strop.mixing.mix import mix as run
    from strop.models.machine import physical_cores

    search = SearchConfig(
        wanted(objective, weight),
        tokens if search_tokens is None else search_tokens,
        tokens,
        swarm_runs,
        rounds,
        eta,
        pull,
        repetitions,
    )
    runs = RunConfig(model, context, batch, learning_rate)
    facts = run(domains, output, method, search, runs, seeds, processes or physical_cores())
    show(facts, output)


def fit_mixture(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV, a row for each run: columns 'weight NAME' with its mixture, and 'loss NAME'."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Mixture to write, a JSON file.")],
    objective: ObjectiveName = "mean",
    weight: LossWeights = None,
    pull: Annotated[float, typer.Option(help="Towards uniform weights; 0: none.", min=0)] = 0.05,
) -> None:
    """Find a mixture from a table of runs with other mixtures, without training.

    strop mix writes such tables (swarm-0.csv); they may also come from runs of your own, of any
    size. What is printed is what the fit predicts: only training with the mixture shows its worth.

    [bold]Examples[/bold]

      strop fit-mixture mixed/swarm-0.csv -o worst.json --objective worst

      strop train domains.yaml --mixture worst.json -o model
    """
    from strop.mixing.report import predictions
    from strop.mixing.swarm import mixture_from_table

    print(predictions(mixture_from_table(table, output, wanted(objective, weight), pull)))
    say(f"written to {output}")


def wanted(kind: str, weight: list[str] | None) -> Any:
    """Return the objective that options name."""
    from strop.mixing.optimum import Objective

    example = "a domain and a number, such as code=2"
    return Objective(kind, named_numbers("--weight", weight, example))


def train(
    domains: DomainsFile,
    output: Output,
    mixture: Annotated[
        Path | None,
        typer.Option(
            help="What strop mix wrote, mixture.json.",
            show_default="as the domains come, by their tokens",
        ),
    ] = None,
    tokens: Tokens = 1_000_000,
    model: SizeOrModel = "1M",
    context: ContextTokens = 256,
    batch: Batch = 16,
    learning_rate: Rate = None,
    seed: Annotated[int, typer.Option(help="Of the first weights and the order.", min=0)] = 0,
) -> None:
    """Train a model on domains that are mixed as a mixture says, from scratch or on.

    The result is a model directory, which every command takes. Killed or stopped, the same command
    goes on where it was.

    [bold]Examples[/bold]

      strop train domains.yaml --mixture mixed/mixture.json --model 10M --tokens 20000000 -o model

      strop train domains.yaml --model smollm2 --context 512 -o model
    """
    from strop.mixing.jobs import RunConfig
    from strop.mixing.train import train_on_mixture

    config = RunConfig(model, context, batch, learning_rate)
    facts = train_on_mixture(domains, output, mixture, tokens, config, seed)
    for name, one in facts["losses"].items():
        known = one["change"]
        interval = f" [{known['low']:+.3f}, {known['high']:+.3f}]" if known else ""
        print(
            f"{name}: loss {one['before']:.3f} to {one['after']:.3f} nats per token, a change of "
            f"{one['after'] - one['before']:+.3f}{interval} (n = {one['documents']} documents)"
        )
    say(f"written to {output}; look at {output / 'curves.svg'}")


def show(facts: dict[str, Any], output: Path) -> None:
    """Print what was found."""
    from strop.mixing.report import summary

    print(summary(facts))
    say(f"written to {output}; look at {output / 'weights.svg'} and {output / 'losses.svg'}")
