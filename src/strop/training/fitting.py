"""Which settings fit into memory, and which of them trains fastest here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from strop.blockfp import dequantize, get_format, quantize
from strop.errors import StropError, StropFailure
from strop.models.memory import ModelFacts, Peak, gigabytes, nothing_fits, packed_as, read_facts
from strop.training.memory import RANK, ROOM, Lengths, linear_shapes, trained_weights, tuning_peak

if TYPE_CHECKING:
    from strop.training.network import NetworkConfig

PACKED = ("bfp8", "bfp4g32")  #: formats of a packed base that are tried
PREFERENCES = ("preference", "preferences")  #: command, and what its data are called
TYPES = ("float32", "bfloat16")  #: that weights may be held in
PRODUCT = 1e8  #: multiplications of a product that is timed
TURNS, PROBE = 12, 0.4  #: turns, and seconds after which there are no more
#: Of the available memory that is planned with. Lots of many sizes leave holes that lots of one
#: size do not: 2.54 GB were taken for 1.63 (SFT on 311 abstracts in bfloat16).
SHARE = 0.6
#: times its matrix products that a pass takes, measured with SmolLM2
STEP = {"float32": 1.3, "bfloat16": 2.2}


@dataclass(frozen=True)
class Setting:
    """How a network may be held while it is trained, see `strop.training.network`."""

    rank: int = RANK
    dtype: str = "float32"
    checkpointing: bool = False
    base: str | None = None  #: format that the weights are packed in first; None: as they are

    @property
    def name(self) -> str:
        """Return what the setting is called in a table."""
        what = f"LoRA, rank {self.rank}" if self.rank else "all weights"
        parts = [what, f"{self.base} base" if self.base else self.dtype]
        return ", ".join([*parts, "checkpointing"] if self.checkpointing else parts)


@dataclass(frozen=True)
class Speeds:
    """What this machine does in a second, as probed."""

    products: dict[str, float]  #: multiplications in matrix products, by type
    dequantized: float  #: weights


@dataclass(frozen=True)
class Candidate:
    """A setting, and what it would take."""

    setting: Setting
    lengths: Lengths  #: with as many prompts at a time as fit
    peak: Peak
    seconds: float | None  #: for each prompt with its completions; None: not known here
    fits: bool

    @property
    def name(self) -> str:
        """Return what the setting is called in a table."""
        return self.setting.name

    @property
    def base(self) -> str | None:
        """Return the format that the weights are packed in first."""
        return self.setting.base

    @property
    def tokens(self) -> int:
        """Return the tokens that are computed at a time."""
        return self.lengths.tokens

    @property
    def trial(self) -> tuple[str, dict[str, Any]]:
        """Return the module that tries it, and its settings."""
        setting = {key: value for key, value in vars(self.setting).items() if key != "base"}
        return "strop.training.trial", setting | vars(self.lengths)

    def arguments(self, model: str) -> list[str]:
        """Return the arguments of the command that trains so."""
        kind, data = ("sft", "examples") if self.lengths.completions == 1 else PREFERENCES
        setting = self.setting
        again = "--checkpointing" if setting.checkpointing else "--no-checkpointing"
        options = ["--rank", str(setting.rank), "--dtype", setting.dtype, again]
        room = ["--room", str(self.tokens)]
        return ["tune", kind, model, f"{data}.jsonl", "-o", "tuned", *options, *room]


@dataclass(frozen=True)
class Choice:
    """What the trainer should do."""

    network: NetworkConfig  #: with what was given
    room: int  #: of TrainingConfig: tokens at a time
    peak: Peak
    reason: str  #: one line


def probed(facts: ModelFacts) -> Speeds | None:
    """Time one matrix product of the MLP's size in each type; None where there is no PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    a = facts.architecture
    rows = int(np.clip(PRODUCT / (a.hidden * a.inner), 16, 256))
    work: dict[str, Callable[[], Any]] = {}
    for name in TYPES:
        dtype = getattr(torch, name)
        x, w = torch.ones(rows, a.hidden, dtype=dtype), torch.ones(a.inner, a.hidden, dtype=dtype)
        work[name] = partial(torch.nn.functional.linear, x, w)
    weight = quantize(np.ones((256, a.hidden), np.float32), get_format(PACKED[0]))
    took = shortest(work | {"dequantize": partial(dequantize, weight)})
    products = {name: rows * a.hidden * a.inner / took[name] / STEP[name] for name in TYPES}
    return Speeds(products, weight.shape[0] * a.hidden / took["dequantize"])


def fastest_type(directory: Path) -> str:
    """Return the type in which a model's matrices are multiplied fastest here.

    It is float32 where the sizes of the matrices are not known.
    """
    try:
        speeds = probed(read_facts(directory))
    except StropError:
        return "float32"
    return max(speeds.products, key=speeds.products.__getitem__) if speeds else "float32"


def shortest(work: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the shortest time of each of some calls, which take turns on a machine that is busy.

    The first turn is not counted; there are at least two more, and no new one after PROBE seconds.
    """
    times = dict.fromkeys(work, math.inf)
    begin, turn = perf_counter(), 0
    while turn < 3 or (turn < TURNS and perf_counter() - begin < PROBE):
        for name, call in work.items():
            start = perf_counter()
            call()
            if turn:
                times[name] = min(times[name], perf_counter() - start)
        turn += 1
    return times


def step_seconds(facts: ModelFacts, setting: Setting, lengths: Lengths, speeds: Speeds) -> float:
    """Return about how long forward and backward take for a prompt with its completions.

    A forward pass is one unit; the slope of the inputs is one more, that of all weights another,
    and checkpointing one more.
    """
    a = facts.architecture
    weights = sum(rows * columns for rows, columns in linear_shapes(a))
    units = 2 + setting.checkpointing
    adapters = trained_weights(facts, setting.rank) if setting.rank else weights
    pairs = lengths.prompt * lengths.prompt + lengths.completions * (
        lengths.completion * (2 * lengths.prompt + lengths.completion)
    )
    attention = pairs * a.layers * a.heads * a.head_dim  # half of it is masked, of two products
    products = units * (lengths.group * weights + attention) + lengths.group * adapters
    scored = lengths.completions * lengths.completion
    products += (2 if setting.rank else 3) * scored * a.hidden * a.vocabulary
    seconds = products / speeds.products[setting.dtype]
    if facts.packed:
        matrices = units * weights + facts.head.size
        seconds += matrices / lengths.groups / speeds.dequantized
    return seconds


def settings_for(facts: ModelFacts, rank: int | None, types: list[str]) -> list[Setting]:
    """Return the settings to try: adapters on weights as they are or packed, or all weights.

    `rank` None stands for adapters and all weights, 0 for all weights only.
    """
    found = []
    if rank != 0:
        kinds: list[tuple[str, str | None]] = [(dtype, None) for dtype in types]
        kinds += [] if facts.packed else [("float32", name) for name in PACKED]
        found += [
            Setting(rank or RANK, dtype, again, base)
            for dtype, base in kinds
            for again in (False, True)
        ]
    if not rank and not facts.packed:
        found += [Setting(0, "float32", again) for again in (False, True)]
    return found


def fitting(
    facts: ModelFacts,
    lengths: Lengths,
    budget: int,
    speeds: Speeds | None = None,
    rank: int | None = None,
    room: int = ROOM,
) -> list[Candidate]:
    """Return all candidates: those that fit first, the fastest first, then by memory.

    `lengths.groups` is the most prompts at a time, `room` the most tokens. Without speeds, types
    that may be slow here are left out, and what computes less comes first.
    """
    types = list(speeds.products) if speeds else ["float32"]
    assumed = speeds or Speeds({"float32": 1e10}, 1e9)
    found = []
    for setting in settings_for(facts, rank, types):
        held = packed_as(facts, setting.base) if setting.base else facts
        chosen, peak = most_groups(held, setting, lengths, budget, room)
        fits = peak.total <= budget
        seconds = step_seconds(held, setting, chosen, assumed) if speeds else None
        # For the order one prompt at a time, so that it does not depend on how many fit. All
        # weights come last: they are another result, not another way to the same.
        alone = step_seconds(held, setting, replace(chosen, groups=1), assumed)
        place = (not fits, not setting.rank, alone)
        found.append((place, Candidate(setting, chosen, peak, seconds, fits)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def most_groups(
    facts: ModelFacts, setting: Setting, lengths: Lengths, budget: int, room: int
) -> tuple[Lengths, Peak]:
    """Return the most prompts at a time that fit, or one, with the peak."""
    most = min(lengths.groups, max(1, room // lengths.group))
    for groups in range(most, 0, -1):
        chosen = replace(lengths, groups=groups)
        peak = tuning_peak(facts, setting, chosen)
        if peak.total <= budget:
            break
    return chosen, peak


def choose(
    facts: ModelFacts,
    lengths: Lengths,
    budget: int,
    given: Mapping[str, Any] | None = None,
    room: int = ROOM,
) -> Choice:
    """Return the fastest setting for the weights as they are that fits, and why it is that one.

    `lengths.groups` is the most prompts at a time, such as a batch, and `room` the most tokens, but
    that one prompt with its completions may be more; `given` are fields of
    NetworkConfig that are not to be chosen. Raises StropFailure, which says what the smallest
    setting would need, if none fits.
    """
    from strop.training.network import NetworkConfig

    given = {key: value for key, value in (given or {}).items() if value is not None}
    NetworkConfig(**given)  # raises the errors of what is given
    speeds = probed(facts)
    every = fitting(facts, lengths, budget, speeds, given.get("rank", RANK), room)
    allowed = [
        one
        for one in every
        if all(getattr(one.setting, key, value) == value for key, value in given.items())
    ]
    found = [one for one in allowed if not one.setting.base]
    fits = [one for one in found if one.fits]
    if not fits:
        packed = [one.setting.base for one in allowed if one.fits]
        advice = f"; it would fit packed, see strop pack --format {packed[0]}" if packed else ""
        raise StropFailure(nothing_fits([one.peak for one in found], budget) + advice)
    setting = fits[0].setting
    # The rank is left as it was given: adapters that are gone on with have one.
    chosen: dict[str, Any] = {"dtype": setting.dtype, "checkpointing": setting.checkpointing}
    return Choice(
        NetworkConfig(**given | chosen),
        fits[0].lengths.tokens,
        fits[0].peak,
        reason(fits[0], found, speeds),
    )


def reason(chosen: Candidate, found: list[Candidate], speeds: Speeds | None) -> str:
    """Say in one line why a setting was chosen."""
    setting = chosen.setting
    parts = [f"{gigabytes(chosen.peak.total)} for {chosen.lengths.tokens} tokens at a time"]
    if speeds and setting.rank:
        times = speeds.products["float32"] / speeds.products["bfloat16"]
        if setting.dtype == "float32":
            slower = f"{times:.1f}" if times < 10 else f"{times:.0f}"
            parts.append(f"bfloat16 would take {slower} times as long here")
        else:
            parts.append(f"bfloat16 takes {times:.2g} times as long here")
    plain = replace(setting, checkpointing=False)
    parts += [
        f"without checkpointing {gigabytes(one.peak.total)}"
        for one in found
        if setting.checkpointing and one.setting == plain
    ]
    return f"{setting.name}: {'; '.join(parts)}"
