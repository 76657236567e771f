"""Exporting a model, and running prompts through what was written before it counts as done.

The source answers some prompts, always with its most likely token. Source and export then give the
log-probability of each token of these answers; what differs by more than the kind of export
explains is not kept.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strop.console import progress
from strop.data import atomic_path
from strop.decoding import GREEDY, complete, prompt_tokens
from strop.errors import StropError, StropFailure, unknown_name
from strop.evaluation.check import log_softmax
from strop.models import load, pack, resolve
from strop.models.adapters import CONFIG, WEIGHTS, Adapter, adapter_base, is_adapter, read_adapter
from strop.models.interface import Model
from strop.models.merging import merge, open_plain, write_plain
from strop.models.packing import check_output, replaceable

PROMPTS = (
    "Why is the sky blue?",
    "Write a Python function that adds two numbers.",
    "List the days of the week.",
    "Translate to French: The house is small, but it is ours.",
    "What is 17 times 3?",
    "Tell me a story about a lighthouse.",
)
TOKENS = 32  #: of each answer, at most
DEFAULT_FORMAT = "bfp8"


@dataclass(frozen=True)
class Kind:
    """What a model can be exported as, and how far it may then be from its source."""

    measure: str  #: which difference has a limit: "mean" or "largest"
    limit: float  #: nats per token
    gguf: str | None = None  #: element type of the matrices, for GGUF files


KINDS = {
    # Nothing is rounded: what differs is the order of sums in float32.
    "merged": Kind("largest", 1e-3),
    "adapter": Kind("largest", 1e-3),
    # What rounding costs is the user's choice of format, and `strop check` measures it. This limit
    # is for weights in wrong places, and for models of which nothing is left: SmolLM2 loses 0.03 as
    # bfp8, 0.3 as bfp4, 1.8 as mx4 and 4.4 as msfp11.
    "packed": Kind("mean", 3.0),
    "gguf-f16": Kind("largest", 0.02, gguf="F16"),
    "gguf-q8_0": Kind("mean", 0.2, gguf="Q8_0"),
}


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from its source on the tokens of some answers."""

    kind: str  #: key of `KINDS`
    size: int  #: bytes of what was written
    mean: float  #: mean absolute difference of the log-probability of a token, in nats
    largest: float  #: largest absolute difference, in nats
    agreement: float  #: share of tokens before which both have the same first choice
    tokens: int  #: of all answers
    prompts: int  #: that were answered

    @property
    def within_limit(self) -> bool:
        """Tell whether the difference is one that the kind explains."""
        return self.limited <= KINDS[self.kind].limit  # False for NaN

    @property
    def limited(self) -> float:
        """Return the difference that has a limit."""
        return self.mean if KINDS[self.kind].measure == "mean" else self.largest

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What the source said to one prompt."""

    prompt: str
    context: list[int]  #: tokens of the prompt
    tokens: list[int]  #: tokens of the answer
    logps: NDArray[np.float32]  #: of these
    choices: NDArray[np.intp]  #: the most likely token at each place


def export(
    model: str,
    output: Path,
    kind: str,
    format: str = DEFAULT_FORMAT,
    prompts: Sequence[str] = PROMPTS,
    tokens: int = TOKENS,
) -> ExportReport:
    """Write a model as one of `KINDS`, and check it on the answers of its source to some prompts.

    "merged" is an ordinary transformers directory, "packed" one in a block `format`, "adapter" a
    copy of an adapter directory, the others are GGUF files. `tokens` are those of an answer. The
    output appears when it is checked; it replaces a directory that Strop wrote, or a .gguf file.
    Needs PyTorch. Raises StropError for what cannot be exported, StropFailure if the export differs
    from its source by more than the limit of its kind.
    """
    if not prompts or tokens < 1:
        raise StropError("an export is checked on at least one prompt and one token")
    check_request(model, output, kind)
    with atomic_path(output) as place:
        write(model, place, kind, format)
        answers = answers_of(open_source(model), prompts, tokens)
        # Beside the output, where there is room for it; it is gone before the output appears.
        with tempfile.TemporaryDirectory(dir=place.parent) as work:
            exported = open_export(place, kind, Path(work))
            exported.name = str(output)  # in errors, for the place is a passing one
            report = compare(exported, answers, kind, size_of(place))
        if not report.within_limit:
            raise StropFailure(
                f"{output}: not kept, as it differs from {model} by {report.limited:.3g} nats per "
                f"token ({KINDS[kind].measure} of {report.tokens}), more than the "
                f"{KINDS[kind].limit:g} that {kind} explains"
            )
    return report


def check_request(model: str, output: Path, kind: str) -> None:
    """Raise StropError for what cannot be exported, and an output that must not be replaced."""
    if kind not in KINDS:
        raise unknown_name("kind of export", kind, KINDS)
    if kind == "adapter" and not is_adapter(model):
        raise StropError(f"{model}: no adapter, so it cannot be exported as one")
    directory, given = resolve(model), Path(model).expanduser()
    sources = [given, directory] if given.exists() else [directory]
    if is_adapter(model):
        sources.append(resolve(adapter_base(given)))
    if KINDS[kind].gguf:
        check_file(output, sources)
        return
    for source in sources:
        if kind == "adapter":
            check_copy(output, source)
        else:
            check_output(output, source)


def check_file(output: Path, sources: Sequence[Path]) -> None:
    """Raise StropError unless `output` is free or a .gguf file, and no source."""
    if output.suffix.lower() != ".gguf":
        raise StropError(f"{output}: name a file that ends in .gguf")
    if output.is_dir():
        raise StropError(f"{output}: is a directory: name a file")
    if output.exists() and any(output.samefile(source) for source in sources):
        raise StropError(f"{output}: would replace the source: name another file")


def check_copy(output: Path, source: Path) -> None:
    """Raise StropError unless `output` is free: whose an adapter is cannot be told."""
    place = replaceable(output, source)
    if place.exists() and any(place.iterdir()):
        raise StropError(f"{output}: is not empty: name another directory, or remove it")


def open_source(model: str) -> Model:
    """Load the source on PyTorch. An adapter stays beside its base, so that merging is checked."""
    if not is_adapter(model):
        return load(model, "torch")
    from strop.models.torch_backend import TorchModel

    adapter = read_adapter(Path(model).expanduser())
    source = TorchModel(model, resolve(adapter.base))
    add_adapter(source.network, adapter)
    return source


def add_adapter(network: Any, adapter: Adapter) -> None:
    """Let each module with an adapter give y + scale B A x."""
    import torch

    def adapted(a: Any, b: Any, module: Any, inputs: Any, output: Any) -> Any:
        return output + adapter.scale * (inputs[0] @ a.T @ b.T)

    for name, (a, b) in adapter.layers.items():
        hook = partial(adapted, torch.from_numpy(a), torch.from_numpy(b))
        network.get_submodule(name).register_forward_hook(hook)


def answers_of(model: Model, prompts: Sequence[str], tokens: int) -> list[Answer]:
    """Let the source answer. Raises StropError if a prompt leaves no room."""
    greedy = replace(GREEDY, max_tokens=tokens)
    answers = []
    with progress("answering", len(prompts), "prompts") as advance:
        for prompt in prompts:
            context = prompt_tokens(model.tokenizer, prompt)
            answer = list(complete(model, context, greedy).tokens)
            if not answer:
                raise StropError(f"no room for an answer to a prompt of {len(context)} tokens")
            logps, choices = score(model, context, answer)
            answers.append(Answer(prompt, context, answer, logps, choices))
            advance(1)
    return answers


def score(
    model: Model, context: Sequence[int], answer: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the log-probability of each token of an answer, and the most likely token there.

    Raises StropFailure when the model's logits are not finite.
    """
    logits = model.session().forward([*context, *answer[:-1]], last=len(answer))
    if not np.isfinite(logits).all():
        raise StropFailure(f"{model.name}: its logits hold NaN or infinity")
    rows = log_softmax(logits)
    return rows[np.arange(len(answer)), answer], logits.argmax(axis=1)


def write(model: str, place: Path, kind: str, format: str) -> None:
    """Write the export."""
    if dtype := KINDS[kind].gguf:
        # Imported here because the gguf library is slow to import and rarely needed.
        from strop.models.gguf_writer import write_gguf

        write_gguf(resolve(model), place, dtype, Path(model).name.removesuffix(".gguf"))
    elif kind == "packed":
        pack(model, format, place)
    elif kind == "adapter":
        place.mkdir()
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(Path(model).expanduser() / name, place / name)
    else:
        place.mkdir()
        write_plain(open_plain(resolve(model)), place)


def open_export(place: Path, kind: str, work: Path) -> Model:
    """Load what was written, through files in `work` rather than the user's cache."""
    if kind == "packed":
        try:
            return load(str(place))
        except StropError:  # a format or an architecture that the engine does not run
            return load(str(place), "torch")
    if kind == "merged":
        return load(str(place), "torch")
    if kind == "adapter":
        merge(place, resolve(adapter_base(place)), work)
    else:
        from strop.models.convert import convert_gguf

        convert_gguf(place, work)
    return load(str(work), "torch")


def compare(model: Model, answers: Sequence[Answer], kind: str, size: int) -> ExportReport:
    """Score the answers of the source. Raises StropFailure if prompts are read differently."""
    differences, same = [], []
    with progress("checking", len(answers), "prompts") as advance:
        for answer in answers:
            if prompt_tokens(model.tokenizer, answer.prompt) != answer.context:
                raise StropFailure(
                    f"not exported: its tokenizer reads this prompt differently: {answer.prompt}"
                )
            logps, choices = score(model, answer.context, answer.tokens)
            differences.append(np.abs(logps - answer.logps))
            same.append(choices == answer.choices)
            advance(1)
    difference = np.concatenate(differences).astype(np.float64)
    return ExportReport(
        kind=kind,
        size=size,
        mean=float(difference.mean()),
        largest=float(difference.max()),
        agreement=float(np.concatenate(same).mean()),
        tokens=len(difference),
        prompts=len(answers),
    )


def size_of(place: Path) -> int:
    """Return the bytes of a file, or of all files of a directory."""
    files = [place] if place.is_file() else [path for path in place.iterdir() if path.is_file()]
    return sum(path.stat().st_size for path in files)
