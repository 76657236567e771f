"""`strop tune`: train a model on examples or preferences, or a ranker."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from strop.cli.options import Model, given_columns, named_numbers
from strop.console import say

app = typer.Typer(
    help="Train a model on examples or preferences, or a ranker; needs the extra 'tune'.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

TRAINING = "Training"  # heading of these options in --help

Output = Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        help="What the data calls a column, such as prompt=question; can be repeated. Columns that "
        "are not named are then ignored."
    ),
]

#: The options of all three. None stands for a default that depends on what is tuned.
TRAINING_OPTIONS: dict[str, Any] = {
    "learning_rate": Annotated[
        float | None,
        typer.Option(
            help="At its peak.", show_default="by what is tuned", rich_help_panel=TRAINING
        ),
    ],
    "epochs": Annotated[
        float | None,
        typer.Option(
            help="How often each prompt is learned from.",
            show_default="1",
            rich_help_panel=TRAINING,
        ),
    ],
    "batch": Annotated[
        int | None,
        typer.Option(
            help="Prompts between two updates.", show_default="32", rich_help_panel=TRAINING
        ),
    ],
    "room": Annotated[
        int | None,
        typer.Option(
            help="Tokens that are computed at a time; the most that strop plan says fits.",
            show_default="1024",
            rich_help_panel=TRAINING,
        ),
    ],
    "schedule": Annotated[
        str | None,
        typer.Option(
            help="How the learning rate falls: cosine, linear or constant.",
            show_default="cosine",
            rich_help_panel=TRAINING,
        ),
    ],
    "warmup": Annotated[
        float | None,
        typer.Option(
            help="Part of the steps in which the learning rate rises.",
            show_default="0.1",
            rich_help_panel=TRAINING,
        ),
    ],
    "weight_decay": Annotated[
        float | None, typer.Option(help="Of AdamW.", show_default="0", rich_help_panel=TRAINING)
    ],
    "clip": Annotated[
        float | None,
        typer.Option(
            help="Largest norm of the gradient; 0: any.",
            show_default="1",
            rich_help_panel=TRAINING,
        ),
    ],
    "rank": Annotated[
        int | None,
        typer.Option(
            help="Of the LoRA adapters of all linear layers; 0 trains all weights.",
            show_default="8",
            rich_help_panel=TRAINING,
        ),
    ],
    "alpha": Annotated[
        float | None,
        typer.Option(
            help="Adapters count alpha / rank times.",
            show_default="16",
            rich_help_panel=TRAINING,
        ),
    ],
    "held_out": Annotated[
        float | None,
        typer.Option(
            help="Part of the prompts that is never trained on: on half of it the run is followed, "
            "on the other half its effect is measured; 0: none.",
            show_default="0.1",
            rich_help_panel=TRAINING,
        ),
    ],
    "evaluate_every": Annotated[
        int | None,
        typer.Option(
            help="Steps between two evaluations.",
            show_default="a quarter of all",
            rich_help_panel=TRAINING,
        ),
    ],
    "patience": Annotated[
        int | None,
        typer.Option(
            help="Stop after so many evaluations without a better one; 0: never. The best weights "
            "are taken in any case.",
            show_default="0",
            rich_help_panel=TRAINING,
        ),
    ],
    "checkpointing": Annotated[
        bool | None,
        typer.Option(
            "--checkpointing/--no-checkpointing",
            help="Compute activations again instead of keeping them: less memory, more time.",
            show_default="if memory asks for it",
            rich_help_panel=TRAINING,
        ),
    ],
    "dtype": Annotated[
        str | None,
        typer.Option(
            help="Of frozen weights and activations: float32 or bfloat16.",
            show_default="what is faster here and fits",
            rich_help_panel=TRAINING,
        ),
    ],
    "tracker": Annotated[
        list[str] | None,
        typer.Option(
            help="tensorboard; wandb, mlflow or trackio, if installed; can be repeated.",
            rich_help_panel=TRAINING,
        ),
    ],
    "seed": Annotated[
        int | None,
        typer.Option(
            help="For the order of the data and what is held out.",
            show_default="0",
            rich_help_panel=TRAINING,
        ),
    ],
}

NETWORK = ("rank", "alpha", "checkpointing", "dtype")


def with_training(command: Callable[..., None]) -> Callable[..., None]:
    """Add the training options to a command, which takes those given as its `given`."""
    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.name != "given"]
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, kind, default=None, annotation=hint)
        for name, hint in TRAINING_OPTIONS.items()
    ]

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        every = {name: arguments.pop(name) for name in TRAINING_OPTIONS}
        command(**arguments, given={k: v for k, v in every.items() if v not in (None, [])})

    parameters = [*own, *options]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def tune_config(given: dict[str, Any], learning_rate: float) -> Any:
    """Return the configuration for the options that were given."""
    from strop.training.network import NetworkConfig
    from strop.training.schedule import TrainingConfig
    from strop.tuning.fit import TuneConfig

    rest = {"learning_rate": learning_rate} | given
    network = NetworkConfig(**{name: rest.pop(name) for name in NETWORK if name in rest})
    held_out = {"held_out": rest.pop("held_out")} if "held_out" in rest else {}
    if trackers := rest.pop("tracker", None):
        rest["trackers"] = tuple(trackers)
    return TuneConfig(network, TrainingConfig(**rest), **held_out)


@app.command()
@with_training
def sft(
    model: Model,
    data: Annotated[Path, typer.Argument(help="JSON lines with prompt and completion.")],
    output: Output,
    given: dict[str, Any],
    columns: Columns = None,
) -> None:
    """Train a model on examples: prompts with the answers that it should give.

    The result is a LoRA adapter (with --rank 0 a whole model), which every command takes as a
    MODEL. Killed or stopped with Ctrl-C, the same command goes on where it was.

    [bold]Examples[/bold]

      strop tune sft smollm2 examples.jsonl -o tuned

      strop tune sft smollm2 dolly.jsonl -o tuned --columns prompt=instruction --columns
      completion=output --epochs 2
    """
    from strop.tuning.tune import SFT_RATE, tune_sft

    config = tune_config(given, SFT_RATE)
    show(tune_sft(model, data, output, config, given_columns(columns)), output)


@app.command()
@with_training
def ranker(
    model: Model,
    data: Annotated[Path, typer.Argument(help="JSON lines with prompt, chosen and rejected.")],
    output: Output,
    given: dict[str, Any],
    columns: Columns = None,
    pointwise: Annotated[
        bool, typer.Option("--pointwise", help="Score each answer alone: good or bad.")
    ] = False,
    prompt_tokens: Annotated[
        int, typer.Option(help="The last so many tokens of a prompt are read.", min=1)
    ] = 256,
    answer_tokens: Annotated[
        int, typer.Option(help="The first so many tokens of an answer are read.", min=1)
    ] = 256,
) -> None:
    """Train a ranker on preferences: it says which of two answers is better.

    Its accuracy on held-out prompts is compared with a ranker that looks at lengths only.

    [bold]Examples[/bold]

      strop tune ranker smollm2 preferences.jsonl -o ranker

      strop tune ranker smollm2 preferences.jsonl -o scorer --pointwise
    """
    from strop.tuning.ranker import RankerConfig
    from strop.tuning.tune import RANKER_RATE, tune_ranker

    kind = "pointwise" if pointwise else "pairwise"
    reads = RankerConfig(kind, prompt_tokens, answer_tokens)
    config = tune_config(given, RANKER_RATE)
    show(tune_ranker(model, data, output, reads, config, given_columns(columns)), output)


@app.command()
@with_training
def preference(
    model: Model,
    data: Annotated[
        list[Path],
        typer.Argument(help="JSON lines with prompt, chosen, rejected; or what strop pairs wrote."),
    ],
    output: Output,
    given: dict[str, Any],
    loss: Annotated[
        str, typer.Option(help="slic, dpo, simpo ...: strop tune losses shows all.")
    ] = "slic",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the loss, such as margin=1; can be repeated."),
    ] = None,
    columns: Columns = None,
) -> None:
    """Train a model on preferences, without a reward model or reinforcement learning.

    [bold]Examples[/bold]

      strop tune preference smollm2 preferences.jsonl -o tuned

      strop tune preference sft pairs -o tuned --loss slic --set margin=1 --set regularization=0.1

      strop tune preference sft pairs -o tuned --loss dpo --set beta=0.1
    """
    from strop.tuning.losses import loss_settings
    from strop.tuning.tune import tune_preference

    row, chosen = loss_settings(
        loss, named_numbers("--set", settings, "a name and a number, such as margin=1")
    )
    config = tune_config(given, row.learning_rate)
    columns_given = given_columns(columns)
    show(tune_preference(model, data, output, loss, chosen, config, columns_given), output)


@app.command()
def losses() -> None:
    """List the losses with their formulas, sources and settings."""
    from strop.tuning.losses import LOSSES

    for name, row in LOSSES.items():
        needs = [
            word
            for needed, word in (
                (row.needs_reference, "log-probabilities before tuning, computed once"),
                (row.needs_values, "values of the candidates"),
                (row.whole_list, "all candidates at once"),
            )
            if needed
        ]
        settings = ", ".join(f"{key}={value:g}" for key, value in row.defaults.items()) or "none"
        print(f"{name}\n  {row.first_line}")
        print(f"  settings: {settings}" + (f"; needs {', '.join(needs)}" if needs else ""))


def show(facts: dict[str, Any], output: Path) -> None:
    """Print what came of a run."""
    from strop.tuning.effect import sentence

    for name in facts.get("effect", ()):
        print(sentence(facts["effect"], name))
    if "accuracy" in facts:
        accuracy, base, difference = (
            facts[name] for name in ("accuracy", "baseline_accuracy", "difference")
        )
        print(
            f"right on {accuracy['estimate']:.1%} [{accuracy['low']:.1%}, {accuracy['high']:.1%}] "
            f'of {accuracy["n"]} held-out prompts; "the {facts["baseline"]} answer wins" on '
            f"{base['estimate']:.1%}; difference {100 * difference['estimate']:+.1f} "
            f"[{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}] points: "
            f"{facts['verdict']}"
        )
    if kl := facts.get("kl_to_start"):
        shown = f"{kl['estimate']:.3g} [{kl['low']:.3g}, {kl['high']:.3g}]"
        print(f"KL to the start: {shown} nats per token (n = {kl['n']} prompts)")
    print(f"steps: {facts['steps']}, weights of step {facts['best_step']}; {facts['diagnosis']}")
    say(f"written to {output}; look at {output / 'curves.svg'}")
