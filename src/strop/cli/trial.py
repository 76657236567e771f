"""strop trial: does choosing rows help?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from strop.console import say


def trial(
    data: Annotated[
        Path, typer.Argument(help="Rows with scores: the output of strop rate or strop score.")
    ],
    model: Annotated[str, typer.Option(help="Model to train, with adapters.")],
    keep: Annotated[int, typer.Option(help="Rows of each run.", min=1)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")],
    by: Annotated[
        list[str] | None,
        typer.Option(help="Selector to try, as in strop select --by; give several, one by one."),
    ] = None,
    selectors: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of more of them, with rules: NAME: {by: ifd, most: {ifd: 1}}."
        ),
    ] = None,
    embedder: Annotated[
        str, typer.Option(help="Model that embeds rows, for k-center and facility-location.")
    ] = "",
    tests: Annotated[
        Path | None,
        typer.Option(
            help="Rows that losses are measured on.", show_default="a tenth of the prompts"
        ),
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Tasks for each tuned model, by commas; see strop eval --list.")
    ] = "",
    limit: Annotated[int, typer.Option(help="Rows of each task; 0: all.", min=0)] = 100,
    parts: Annotated[
        int, typer.Option(help="Parts that rows are dealt into: runs of each selector.", min=2)
    ] = 3,
    random: Annotated[int, typer.Option(help="Runs on random rows.", min=2)] = 5,
    more: Annotated[
        float,
        typer.Option(
            help="Also train on so many times as many random rows: what a selector's cost buys.",
            min=0,
        ),
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(help="Of the parts, of what is random, of the training.", min=0)
    ] = 0,
    epochs: Annotated[float, typer.Option(help="How often each row is learned from.")] = 1.0,
    batch: Annotated[int, typer.Option(help="Rows between two updates.", min=1)] = 16,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 2e-4,
    processes: Annotated[
        int, typer.Option(help="Runs at a time: each on its share of the cores.", min=1)
    ] = 1,
    dtype: Annotated[
        str, typer.Option(help="Of frozen weights and activations: float32 or bfloat16.")
    ] = "float32",
) -> None:
    """Say whether rows that a selector chooses are better to train on than random ones.

    The rows are dealt into parts. From each part every selector chooses, and the model is trained
    on that; and on random rows, and on random rows with answers as long as those of the chosen
    ones. All runs have as many rows, and are tested on the same others. The interval holds for the
    luck of a choice and for that of the test; p-values are corrected for all selectors together.
    Killed or stopped, the same command goes on.

    [bold]Examples[/bold]

      strop trial scored --model smollm2 --by accuracy --by -length --keep 128 -o trial

      strop trial scored --model smollm2 --by ifd --keep 200 --tasks openbookqa -o trial
    """
    from strop.recipes.stages.trial import read_selectors, select_configs
    from strop.selection.trial import TrialConfig
    from strop.selection.trial import trial as run
    from strop.selection.trial_plan import Runs
    from strop.selection.trial_report import spelled
    from strop.training.network import NetworkConfig
    from strop.training.schedule import TrainingConfig

    config = TrialConfig(
        runs=Runs(parts, random, more, seed),
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        limit=limit,
        network=NetworkConfig(dtype=dtype),
        training=TrainingConfig(learning_rate=learning_rate, epochs=epochs, batch=batch),
    )
    more_selectors = {} if selectors is None else read_selectors(selectors)
    chosen = select_configs(by or (), more_selectors, keep, embedder)
    facts = run(model, data, output, chosen, config, tests, processes)
    print(spelled(facts))
    say(f"written to {output}; look at {output / 'differences.svg'}")
