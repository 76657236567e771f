"""The text that a model is calibrated on, and the network that reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strop.console import progress
from strop.errors import StropError, StropFailure
from strop.models.tokenizer import Tokenizer

PIECES = 128  #: of the calibration text
PIECE = 128  #: tokens
LETTERS = 64  #: of a text, for each token that is used: of a longer one, that many are read


@dataclass(frozen=True)
class Calibration:
    """A network in float32, and pieces of text for it to read."""

    network: Any  #: a transformers module; error-compensated rounding changes its weights
    tokens: Any  #: tensor of token ids, shape (pieces, length)
    text: str  #: where the text is from: "own", or a hash of the user's

    def describe(self) -> dict[str, Any]:
        """Return what config.json says about the calibration."""
        return {"text": self.text, "tokens": self.tokens.numel()}

    def linear_layers(self) -> dict[Any, str]:
        """Return the linear layers, each with the name of its weight; a tied head has the
        embedding's."""
        import torch

        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        layers = [m for m in self.network.modules() if isinstance(m, torch.nn.Linear)]
        return {layer: names[id(layer.weight)] for layer in layers}


def open_calibration(directory: Path, text: str | None, seed: int = 0) -> Calibration:
    """Load a model and the text to calibrate it on: a given one, or what the model itself writes.

    A model's own text needs no data, is of its own kind, and cannot be what it is evaluated on.
    Raises StropError without PyTorch, and for a text of fewer than 8 pieces.
    """
    from strop.models.torch_backend import TorchModel

    model = TorchModel(str(directory), directory)
    for name, parameter in model.network.named_parameters():
        if not parameter.isfinite().all():
            raise StropError(f"{directory}: {name} holds NaN or infinity")
    length = min(PIECE, model.context_length)
    if text is None:
        return Calibration(model.network, own_text(model.network, length, seed), "own")
    digest = "sha256 " + hashlib.sha256(text.encode()).hexdigest()
    return Calibration(model.network, given_text(model.tokenizer, text, length), digest)


def own_text(network: Any, length: int, seed: int) -> Any:
    """Let a model write: each piece begins with a random token and is sampled at temperature 1."""
    import torch

    random = torch.Generator().manual_seed(seed)
    vocabulary = network.get_input_embeddings().num_embeddings
    tokens = torch.randint(vocabulary, (PIECES, 1), generator=random)
    cache = None
    with torch.no_grad(), progress("writing", PIECES * length, "tokens") as advance:
        advance(PIECES)
        while tokens.shape[1] < length:
            output = network(input_ids=tokens[:, -1:], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            if not torch.isfinite(output.logits[:, -1]).all():
                raise StropFailure("calibration: the model's logits are not finite")
            probabilities = output.logits[:, -1].float().softmax(-1)
            drawn = torch.multinomial(probabilities, 1, generator=random)
            tokens = torch.cat([tokens, drawn], dim=1)
            advance(PIECES)
    return tokens


def given_text(tokenizer: Tokenizer, text: str, length: int) -> Any:
    """Tokenize a text, as far as it is needed, and cut it into pieces."""
    import torch

    ids = tokenizer.encode(excerpts(text, LETTERS * PIECES * length), special=False)
    return torch.tensor(pieces(ids, length))


def excerpts(text: str, length: int) -> str:
    """Return a text that is not too long as it is, else pieces from all over it of that length."""
    if len(text) <= length:
        return text
    part = length // PIECES
    starts = (index * (len(text) - part) // (PIECES - 1) for index in range(PIECES))
    return "\n".join(text[start : start + part] for start in starts)


def pieces(ids: Sequence[int], length: int) -> list[list[int]]:
    """Cut a tokenized text into at most 128 equally long pieces, spread evenly over it."""
    available = len(ids) // length
    if available < 8:
        raise StropError(
            f"the calibration text has {len(ids)} tokens: at least {8 * length} are needed, and "
            f"{PIECES * length} are used"
        )
    count = min(available, PIECES)
    starts = [index * available // count * length for index in range(count)]
    return [list(ids[start : start + length]) for start in starts]
