"""Models on transformers and PyTorch, with a cache that can be rolled back."""

from __future__ import annotations

import copy
import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from strop.console import say
from strop.data import write_json
from strop.errors import StropError, failed_import
from strop.models.cache import fingerprint
from strop.models.checkpoint import open_checkpoint
from strop.models.interface import Logits, States, check_forward
from strop.models.packed import check_packed, is_packed
from strop.models.tokenizer import Tokenizer

try:
    import torch
    import transformers
except (ImportError, OSError) as error:  # OSError: a shared library that torch loads itself
    raise failed_import(error, ("torch", "transformers"), "torch") from error


class TorchModel:
    """A transformers directory, or a packed one, in float32."""

    backend = "torch"

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        checkpoint = open_checkpoint(directory)  # finds a damaged file before PyTorch does
        if is_packed(checkpoint.config):
            check_packed(checkpoint)  # PyTorch would cast, and not complain
        self.config = checkpoint.config
        self.tokenizer = Tokenizer.from_directory(directory)
        self.context_length = context_length(
            directory / "config.json", checkpoint.config.get("max_position_embeddings")
        )
        self.files = checkpoint.files
        self.network = load_network(directory, checkpoint.config)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 over the names and contents of the weight files."""
        return fingerprint(self.files)

    @property
    def vocabulary(self) -> int:
        """Return the number of logits per token, which may be more than the tokenizer's size."""
        return int(self.network.get_input_embeddings().num_embeddings)

    def session(self) -> TorchSession:
        """Open an empty sequence."""
        return TorchSession(self)

    def forward(
        self,
        sessions: Sequence[TorchSession],
        tokens: Sequence[Sequence[int]],
        last: int | None = None,
    ) -> list[Logits]:
        """Append tokens to several sessions, one after another, see `Model.forward`."""
        check_forward(self, sessions, tokens, last)
        return [
            session.extend(ids, len(ids) if last is None else min(last, len(ids)))
            for session, ids in zip(sessions, tokens, strict=True)
        ]


class WrappedModel(TorchModel):
    """A transformers module that is in memory already, as it is."""

    def __init__(self, network: Any, tokenizer: Any) -> None:
        """Take a causal language model and its fast tokenizer; StropError if it has another."""
        self.name = str(network.config.name_or_path) or type(network).__name__
        self.directory = Path(self.name)
        self.config = network.config.to_dict()
        self.network = network
        if getattr(network, "generation_config", None) is None:
            raise StropError(f"{type(network).__name__} writes no text: give a causal model")
        if not tokenizer.is_fast:
            raise StropError(f"{type(tokenizer).__name__} is a slow tokenizer: give a fast one")
        # As an attribute transformers gives it by this name, whatever the configuration calls it.
        length = getattr(network.config, "max_position_embeddings", None)
        self.context_length = context_length(self.name, length)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            ends = network.generation_config.eos_token_id
            ends = ends.tolist() if isinstance(ends, torch.Tensor) else ends
            write_json(Path(folder) / "generation_config.json", {"eos_token_id": ends})
            self.tokenizer = Tokenizer.from_directory(Path(folder))

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 over all parameters."""
        digest = hashlib.sha256()
        for name, parameter in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(
                parameter.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
            )
        return digest.hexdigest()


class TorchSession:
    """One sequence and its key-value cache."""

    def __init__(self, model: TorchModel) -> None:
        self.model = model
        self.cache = transformers.DynamicCache()
        self.states: States | None = None
        self._length = 0

    @property
    def length(self) -> int:
        """Return the number of tokens in the cache."""
        return self._length

    def forward(self, tokens: Sequence[int], last: int | None = None) -> Logits:
        """Append tokens and return the logits of the last of them, see `Session.forward`."""
        return self.model.forward([self], [tokens], last)[0]

    def extend(self, tokens: Sequence[int], keep: int) -> Logits:
        """Append tokens that were checked; return the logits of the last `keep`."""
        if len(tokens) == 0:
            self.states = np.empty((0, self.model.network.config.hidden_size), np.float32)
            return np.empty((0, self.model.vocabulary), dtype=np.float32)
        try:
            with torch.no_grad(), evaluating(self.model.network), head_inputs(self.model) as inputs:
                output = self.model.network(
                    input_ids=torch.tensor([list(tokens)], device=self.model.network.device),
                    past_key_values=self.cache,
                    use_cache=True,
                    logits_to_keep=max(keep, 1),  # to transformers 0 means all
                )
        except BaseException:
            # Ctrl-C between two layers must not leave them with different lengths.
            self.cut()
            raise
        self._length += len(tokens)
        logits: Logits = output.logits[0].float().cpu().numpy()
        states = [one[0].float().cpu().numpy() for one in inputs]
        self.states = states[-1][len(states[-1]) - keep :] if states else None
        return logits[len(logits) - keep :]

    def truncate(self, length: int) -> None:
        """Roll back to the first `length` tokens."""
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot roll back {self._length} tokens to {length}")
        self._length = length
        self.cut()

    def fork(self) -> TorchSession:
        """Return another session with the same tokens."""
        other = TorchSession(self.model)
        other.cache, other._length = copy.deepcopy(self.cache), self._length
        return other

    def cut(self) -> None:
        """Drop what the cache holds beyond the sequence."""
        if self._length == 0:
            self.cache = transformers.DynamicCache()
            return
        for layer in self.cache.layers:
            if (beyond := layer.get_seq_length() - self._length) > 0:
                layer.crop(-beyond)


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Switch off what is for training only, such as dropout, and on again where it was on."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def head_inputs(model: TorchModel) -> Iterator[list[Any]]:
    """Yield a list that gets what the head multiplies; it stays empty if the network has none."""
    found: list[Any] = []
    head = model.network.get_output_embeddings()
    if head is None:
        yield found
        return
    hook = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        hook.remove()


def context_length(where: Path | str, length: Any) -> int:
    """Return the most tokens that fit into one sequence, if that is a number of tokens."""
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise StropError(f"{where}: no max_position_embeddings")
    return length


def load_network(
    directory: Path, config: dict[str, Any], dtype: Any = torch.float32, keep_packed: bool = False
) -> Any:
    """Load the transformers module for inference; weights that the file lacks are an error.

    Packed weights become plain ones, once, unless they are to be kept.
    """
    packed = is_packed(config)
    if packed:
        from strop.models import huggingface

        huggingface.register()
    try:
        with quietly():
            network, report = transformers.AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=dtype,
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
            )
    except StropError:
        raise
    except Exception as error:  # it raises almost anything for a configuration that does not fit
        text = " ".join(str(error).split()) or type(error).__name__
        text = text if len(text) <= 300 else text[:297] + "..."
        raise StropError(f"{directory}: transformers cannot load it: {text}") from error
    # transformers would fill what is missing with random numbers and go on.
    if missing := sorted(report["missing_keys"]):
        raise StropError(f"{directory}: {len(missing)} tensors are missing, such as {missing[0]}")
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise StropError(
            f"{directory}: {len(mismatched)} tensors have not the shape that config.json gives, "
            f"such as {name}: {tuple(stored)} instead of {tuple(expected)}"
        )
    if unexpected := sorted(report["unexpected_keys"]):
        say(f"{directory}: {len(unexpected)} tensors are not used, such as {unexpected[0]}")
    if packed and not keep_packed:
        network = network.dequantize()  # once now, rather than at every token
    return network.eval().requires_grad_(False)


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the progress bars of transformers and the warnings of all that it imports."""
    bars, level = transformers.utils.logging, logging.root.manager.disable
    shown = bars.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(level)
        if shown:
            bars.enable_progress_bar()


def wrap(network: Any, tokenizer: Any) -> WrappedModel:
    """Let Strop generate with a transformers model that is in memory, such as one in training.

    `network` is a causal language model on any device, `tokenizer` its fast tokenizer; neither is
    changed. Its logits depend on the number of rows in their last bits: see `planner_for`.
    """
    return WrappedModel(network, tokenizer)
