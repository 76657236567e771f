"""What training runs with given mixtures are: their settings, and where they are made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from strop.data import sha256_file, sha256_json
from strop.errors import StropError
from strop.models import resolve
from strop.models.identity import model_identity
from strop.training.corpus import TRAINED, Corpus
from strop.training.network import NetworkConfig, Trainee, open_trainee
from strop.training.proxies import SHAPES, shape_of, write_proxy
from strop.training.schedule import TrainingConfig
from strop.training.windows import ATTENTION, Window, held_out_windows, training_windows

RATE, CONTINUED_RATE = 3e-3, 2e-4  #: learning rates, from scratch and of a model that is there
ROOM, LARGE_ROOM = 4096, 1024  #: tokens that are computed at a time, of small and of other models
EVALUATIONS = 8  #: of a final run, on its way
ON_THE_WAY = 8192  #: tokens of each domain that these are made on, at most


@dataclass(frozen=True)
class RunConfig:
    """What all runs of a search have in common."""

    model: str = "1M"  #: size of a model from scratch, or a model that is trained on
    context: int = 256  #: tokens of a window
    batch: int = 16  #: windows between two updates
    learning_rate: float | None = None  #: at its peak; 3e-3 from scratch, else 2e-4
    weight_decay: float = 0.1  #: of AdamW
    evaluated: int = 65_536  #: tokens of each domain that a loss is measured on, at most

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        for name in ("context", "batch", "evaluated"):
            if getattr(self, name) < 1:
                raise StropError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.model not in SHAPES and self.model[:1].isdigit() and self.model[-1:] == "M":
            shape_of(self.model)
        self.training(1, 0)

    def training(self, steps: int, seed: int) -> TrainingConfig:
        """Return the settings of one run."""
        rate = self.learning_rate
        if rate is None:
            rate = RATE if self.model in SHAPES else CONTINUED_RATE
        return TrainingConfig(
            learning_rate=rate,
            batch=self.batch,
            weight_decay=self.weight_decay,
            room=max(self.room, self.context + 1),
            evaluate_every=max(1, math.ceil(steps / EVALUATIONS)),
            seed=seed,
        )

    @property
    def room(self) -> int:
        """Return the tokens that are computed at a time."""
        return ROOM if self.model in SHAPES else LARGE_ROOM

    def steps(self, tokens: float) -> int:
        """Return the steps that read so many tokens and no more, but at least one."""
        return max(1, int(tokens // (self.batch * self.context)))


@dataclass(frozen=True)
class Job:
    """One run."""

    weights: tuple[float, ...]  #: of the domains
    steps: int
    seed: int
    parts: tuple[str, ...] = TRAINED  #: that it is trained on
    curve: bool = False  #: whether it is evaluated on the way, and on the test part at the end
    #: steps of the proxy that will be compared with this run, whose losses are kept for it
    reference_for: int = 0
    reference: str = ""  #: hash of the run that a proxy is compared with
    online: bool = False  #: whether the weights move on the way
    rate: float = 0.0  #: by which the weights of a proxy, or of an online run, move
    likelihoods: bool = False  #: whether the loss of each held-out token is kept
    measured: int = 0  #: tokens of each domain that its loss is measured on, at most; 0: all


@dataclass(frozen=True)
class Bench:
    """Where runs are made."""

    corpus: Corpus
    config: RunConfig
    work: Path
    processes: int

    def digest(self, job: Job) -> str:
        """Return the name of a run's directory."""
        plan = {"job": asdict(job), "config": asdict(self.config)}
        return sha256_json(plan | {"corpus": self.corpus.directory.name})[:16]

    def place(self, job: Job) -> Path:
        """Return a run's directory."""
        return self.work / self.digest(job)


def opened(bench: Bench, seed: int, whole: bool = False) -> Trainee:
    """Open the model of a run; if it computes whole batches, a large one keeps less of them."""
    model = bench.config.model
    if model in SHAPES:
        corpus = bench.corpus.directory.name
        directory = bench.work / f"start-{model}-{bench.config.context}-{corpus}-{seed}"
        write_proxy(SHAPES[model], bench.corpus, bench.config.context, seed, directory)
        model = str(directory)
    sparing = whole and bench.config.model not in SHAPES
    trainee = open_trainee(model, NetworkConfig(rank=0, checkpointing=sparing), seed)
    trainee.network.set_attn_implementation(ATTENTION)
    return trainee


def start_identity(model: str) -> str:
    """Return what tells apart the models that runs begin with."""
    return model if model in SHAPES else model_identity(model)


def check_bench(bench: Bench) -> None:
    """Raise StropError if a part has no window, or the model other tokens than the corpus."""
    context = bench.config.context
    for part in TRAINED:
        training_windows(bench.corpus, (part,), context)
    for part in ("validation", "test"):
        held_out(bench, part, context)
    if bench.config.model in SHAPES:
        return
    places = resolve(bench.config.model), bench.corpus.tokenizer
    own, other = (sha256_file(place / "tokenizer.json") for place in places)
    if own != other:
        raise StropError(
            f"{bench.config.model} has other tokens than the corpus: name it as the tokenizer of "
            "the domains"
        )


def held_out(bench: Bench, part: str, most: int) -> list[Window]:
    """Return windows of a held-out part, of each domain as many as have `most` tokens."""
    return held_out_windows(bench.corpus, part, bench.config.context, most)
