"""Make a draft head for a model, if it can pay, and say what it is expected to give."""

from __future__ import annotations

import math
import operator
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import strop
from strop.console import progress, say
from strop.data import begin_or_go_on, clear, read_json, sha256_json, write_json
from strop.decoding.costs import expected, known_costs
from strop.distillation.prompts import own_prompts
from strop.distillation.texts import Texts, write_texts
from strop.errors import StropError, failed_import
from strop.models import load
from strop.models.checkpoint import SINGLE, open_checkpoint
from strop.models.draft_head import MATRICES, Weights, is_draft_head, write_draft_head
from strop.models.native_backend import HEAD, NativeModel
from strop.models.packed import packed_tensors, read_packed
from strop.models.packing import replaceable
from strop.stats import Interval, wilson

FORMAT = "bfp4"  #: of the head's matrices: what they lose in guesses, they gain in speed
HELD_OUT = 0.05  #: of the prompts, on whose answers acceptance is measured
WRITING = 0.5  #: of the time, at most
MINUTES_LEFT = 0.5  #: for training, at least
TYPICAL = 256  #: tokens of a text at which the speed is expected
POSITIONS = 4096  #: on which it is measured, at most
HOPED_FOR = 0.75  #: share of right guesses beyond which no head of this kind gets
LEAST_GAIN = 1.05
#: (tokens that can be guessed, inner size of the MLP in times of the hidden one) to choose from
SIZES = ((4096, 2.0), (8192, 2.0), (16384, 2.0), (8192, 4.0))
TRIAL = 0.05  #: part of the time that each size is tried for


@dataclass(frozen=True)
class DraftReport:
    """What came out."""

    #: how often the 1st, 2nd ... guess was right, for prompts that it did not learn from, greedily
    acceptance: tuple[Interval, ...]
    guess_seconds: float  #: that a guess takes
    pass_seconds: tuple[float, ...]  #: that a pass of the model over 1, 2 ... tokens takes
    outputs: int  #: tokens that can be guessed
    inner: int  #: size of the MLP
    written: int  #: tokens that it learned from
    speedup: float  #: expected, in times of plain generation
    length: int  #: guesses at a time that give it

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**vars(self), "acceptance": [rate.to_json() for rate in self.acceptance]}


def make_draft(
    target: str,
    output: Path | None = None,
    prompts: Sequence[str] | None = None,
    minutes: float = 45.0,
    tokens: int = 400_000,
    seed: int = 0,
) -> DraftReport:
    """Let a packed model write texts, train a head to imitate it, and write the head.

    Without `prompts` the model also writes those. Of `minutes`, training takes what writing leaves.
    All work is kept beside the head, in a directory named *.work, until the head is done: called
    again after an interruption, it goes on there. Raises StropError where arithmetic says that no
    head can pay, with the numbers.
    """
    model = load(target)
    if not isinstance(model, NativeModel):
        raise StropError(f"{target}: draft heads are for packed models: strop pack {target}")
    place = output or model.directory / "draft"
    check_place(place, model.directory)
    if not 0 < minutes < math.inf:
        raise StropError(f"{minutes} minutes are no time to make a head in")
    if prompts is not None and len(prompts) < 2:
        raise StropError(f"{len(prompts)} prompts are too few: give at least two")
    try:
        import torch
    except (ImportError, OSError) as error:
        raise failed_import(error, ["torch"], "torch") from error
    from strop.distillation.network import Head, Teacher, right_guesses, train

    seconds = known_costs(model).after(TYPICAL)
    embedding, rows, final_norm, epsilon = model_head(model)
    refuse_if_hopeless(model, seconds)
    work = place.parent / f"{place.name}.work"
    settings = [strop.__version__, model.fingerprint, FORMAT, SIZES, prompts, minutes, tokens, seed]
    begin_or_go_on(work, {"stage": "draft", "sha256": sha256_json(settings)})
    asked, took = asked_of(model, prompts, seed, work / "prompts.json")
    count = max(1, int(HELD_OUT * len(asked)))
    if len(asked) <= count:
        raise StropError(f"{len(asked)} prompts are too few: give at least two")

    def texts_for(some: Sequence[Sequence[int]], part: float, name: str) -> Texts:
        seconds = part * WRITING * 60 * minutes
        return write_texts(model, some, int(part * tokens), seed, seconds, work / name)

    held_out = texts_for(asked[:count], HELD_OUT, "held-out")
    learned = texts_for(asked[count:], 1 - HELD_OUT, "texts")
    frequency = np.bincount(learned.tokens, minlength=model.vocabulary)
    order = np.argsort(-frequency, kind="stable")
    left = max(MINUTES_LEFT, minutes - (took + held_out.seconds + learned.seconds) / 60)

    def trained(
        outputs: int, inner: int, time_left: float, label: str, keep: Path | None = None
    ) -> tuple[Weights, NDArray[np.int64], list[Interval]]:
        ids = np.sort(order[:outputs])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = Head(rows[ids], final_norm, inner, epsilon)
        teacher = Teacher(embedding, rows[ids])
        with progress(label, 100.0, "%") as advance:
            done = 0.0
            for part in train(head, teacher, learned, time_left, seed, keep):
                advance(100 * (part - done))
                done = part
        weights = head.weights()
        round_matrices(head)
        counts = right_guesses(head, teacher, rows, ids, held_out, POSITIONS)
        if not counts[0][1]:
            raise StropError("the answers held out are too short to measure on: give other prompts")
        return weights, ids, [wilson(right, of) for right, of in counts if of]

    hidden = int(rows.shape[1])
    trials = work / "trials.json"
    tried = read_trials(trials, hidden) if trials.exists() else []
    for outputs, times in SIZES[len(tried) :]:
        inner = int(times * hidden)
        weights, ids, rates = trained(
            outputs, inner, TRIAL * left, f"trying {outputs} tokens, {inner}"
        )
        guess = guess_seconds(weights, ids, model)
        speed, length = expected(extended(rates), guess, seconds)
        tried.append((speed, outputs, inner))
        write_json(trials, tried)
        say(
            f"{outputs} tokens, inner size {inner}: right {shares(rates)}, a guess takes "
            f"{1e3 * guess:.2f} ms: {speed:.2f} times as fast, {length} at a time"
        )
    _, outputs, inner = max(tried)
    say(f"taking {outputs} tokens and inner size {inner}, the fastest of these")
    rest = (1 - TRIAL * len(SIZES)) * left
    weights, ids, rates = trained(outputs, inner, rest, "training", work / "training.pt")
    guess = guess_seconds(weights, ids, model)
    speed, length = expected(extended(rates), guess, seconds)
    report = DraftReport(
        acceptance=tuple(rates),
        guess_seconds=guess,
        pass_seconds=tuple(seconds),
        outputs=outputs,
        inner=inner,
        written=len(learned.tokens),
        speedup=speed,
        length=length,
    )
    facts = {"target": model.name, **report.to_json()}
    write_draft_head(place, weights, ids, FORMAT, facts)
    clear(work)
    return report


def check_place(place: Path, model: Path) -> None:
    """Raise StropError unless a head can be put there and nothing but a head is replaced."""
    real = replaceable(place, model)
    names = sorted(path.name for path in real.iterdir()) if real.exists() else []
    foreign = [name for name in names if name not in ("config.json", SINGLE)]
    with suppress(StropError):  # a damaged configuration
        if not names or (not foreign and is_draft_head(real)):
            return
    raise StropError(
        f"{place}: holds {[*foreign, *names][0]}, which is not of a draft head: name another "
        "directory, or remove it"
    )


def asked_of(
    model: NativeModel, prompts: Sequence[str] | None, seed: int, kept: Path
) -> tuple[list[list[int]], float]:
    """Return the tokens of the prompts, and the seconds that it took to write them.

    If there are none, the model writes some, once: they are in the file `kept` from then on.
    """
    from strop.decoding import prompt_tokens

    if prompts is None:
        if not kept.exists():
            begin = time.monotonic()
            written = own_prompts(model, seed)
            write_json(kept, {"prompts": written, "seconds": time.monotonic() - begin})
        found = read_json(kept)
        try:
            written = [list(map(operator.index, prompt)) for prompt in found["prompts"]]
            return written, float(found["seconds"])
        except (TypeError, ValueError, KeyError) as error:
            raise StropError(f"{kept} is damaged: remove it") from error
    room = model.context_length // 2
    asked = [prompt_tokens(model.tokenizer, prompt) for prompt in prompts]
    short = [prompt for prompt in asked if len(prompt) <= room]
    if not short:
        raise StropError("no prompt that fits half the context")
    if len(short) < len(asked):
        say(f"{len(asked) - len(short)} prompts left out: longer than half the context")
    random = np.random.default_rng(seed)
    return [short[index] for index in random.permutation(len(short))], 0.0


def read_trials(path: Path, hidden: int) -> list[tuple[float, int, int]]:
    """Read how fast each size that was tried was expected to be, with the size."""
    found = read_json(path)
    try:
        tried = [(float(speed), outputs, inner) for speed, outputs, inner in found]
    except (TypeError, ValueError) as error:
        raise StropError(f"{path} is damaged: remove it") from error
    sizes = [(outputs, int(times * hidden)) for outputs, times in SIZES[: len(tried)]]
    if not isinstance(found, list) or [row[1:] for row in tried] != sizes:
        raise StropError(f"{path} is damaged: remove it")
    return tried


def refuse_if_hopeless(model: NativeModel, seconds: Sequence[float]) -> None:
    """Raise StropError if even a very good head that took no time would not help."""
    speed, _ = expected([HOPED_FOR] * 8, 0.0, seconds)
    if speed < LEAST_GAIN:
        costs = ", ".join(f"{one / seconds[0]:.2f}" for one in seconds[:5])
        raise StropError(
            f"{model.name}: drafts cannot pay on this machine: passes over 1, 2 ... tokens take "
            f"{costs} times one, so {HOPED_FOR:.0%} right guesses that cost nothing would make it "
            f"{speed:.2f} times as fast"
        )


def model_head(model: NativeModel) -> tuple[Any, Any, Any, float]:
    """Return embeddings, the rows of the head, the last norm's weight and epsilon, as tensors."""
    import torch

    from strop.blockfp import dequantize

    checkpoint = open_checkpoint(model.directory)
    packed = packed_tensors(str(model.directory), checkpoint.config["quantization_config"])

    def matrix(name: str) -> Any:
        return torch.from_numpy(dequantize(read_packed(checkpoint, name, *packed[name])))

    embedding = matrix("model.embed_tokens.weight")
    rows = matrix(HEAD) if HEAD in packed else embedding
    norm = torch.from_numpy(checkpoint.read("model.norm.weight").astype(np.float32))
    return embedding, rows, norm, float(checkpoint.config["rms_norm_eps"])


def round_matrices(head: Any) -> None:
    """Give a head the matrices that it will have once it is packed, in new memory."""
    import torch

    from strop.blockfp import dequantize, get_format, quantize

    for name in MATRICES:
        weight = getattr(head, name)
        packed = quantize(weight.detach().numpy(), get_format(FORMAT))
        weight.data = torch.from_numpy(dequantize(packed))


def extended(rates: Sequence[Interval], most: int = 8) -> list[float]:
    """Return the rates, and as many more: as the last one."""
    means = [rate.estimate for rate in rates]
    return [*means, *[means[-1]] * (most - len(means))]


def shares(rates: Sequence[Interval]) -> str:
    """Format rates."""
    return ", ".join(f"{rate.estimate:.0%}" for rate in rates)


def guess_seconds(weights: Weights, ids: NDArray[np.int64], model: NativeModel) -> float:
    """Return the time of a guess, by the head as it will be written."""
    from strop.decoding.head import HeadDrafter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "draft"
        write_draft_head(path, weights, ids, FORMAT, {})
        return HeadDrafter(path, model).seconds
