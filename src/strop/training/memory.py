"""How much memory training will take, part by part, before anything is loaded.

What the backward pass needs is kept from the forward pass; the lists below say what that is, in
numbers for each token and layer. They follow the code: strop.training.lora, .attention and .scoring
and the decoders of transformers. Nothing here imports PyTorch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from strop.errors import StropError
from strop.models.architecture import Architecture
from strop.models.memory import FLOAT, ModelFacts, Peak, largest, libraries

WIDTHS = {"float32": 4, "bfloat16": 2}
STORED = {"float32": "F32", "bfloat16": "BF16"}  #: as safetensors names them
RANK = 8  #: of adapters, if nothing is said
ROOM = 1024  #: tokens at a time that are enough: 1290 instead of 430 were 4% faster, measured
ROWS = 128  #: of logits at a time: 25 MB with a vocabulary of 49,152

# What the allocator loses between tensors, as a part of what all layers would keep without
# checkpointing. Measured with glibc 2.36 (0.47 to 0.68, 0.6 to 0.69, 0.44 to 0.54), which
# does not use an aligned block again for another of the same size.
SLACK, SLACK_CHECKPOINTED, SLACK_PACKED_CHECKPOINTED = 0.53, 0.62, 0.49
RETAINED = 0.7  #: of what was taken for activations, once they are gone; measured as well


class Held(Protocol):
    """How a network is held: `strop.training.network.NetworkConfig` is one."""

    @property
    def rank(self) -> int | None:
        """Return the rank of the adapters, None for 8; 0: all weights are trained."""

    @property
    def dtype(self) -> str:
        """Return the type of frozen weights and of activations."""

    @property
    def checkpointing(self) -> bool:
        """Tell whether one state per layer and token is kept and the rest computed again."""


@dataclass(frozen=True)
class Lengths:
    """What is trained on, in tokens."""

    prompt: int = 350
    completion: int = 50  #: of each completion
    completions: int = 2  #: for each prompt; of examples 1, of preferences 2
    groups: int = 1  #: prompts, with their completions, that are computed at a time

    def __post_init__(self) -> None:
        """Raise StropError for what is out of range."""
        for name, value in vars(self).items():
            if value < 1:
                raise StropError(f"{name} must be at least 1, not {value}")

    @property
    def group(self) -> int:
        """Return the tokens of a prompt with its completions."""
        return self.prompt + self.completions * self.completion

    @property
    def tokens(self) -> int:
        """Return the tokens that are computed at a time: `room` of TrainingConfig."""
        return self.groups * self.group

    @property
    def scored(self) -> int:
        """Return the tokens whose logits are needed."""
        return self.groups * self.completions * self.completion

    @property
    def longest(self) -> int:
        """Return the tokens of a prompt with one completion."""
        return self.prompt + self.completion


def tuning_peak(facts: ModelFacts, held: Held, lengths: Lengths) -> Peak:
    """Predict the peak of a run that also evaluates.

    Raises StropError for what cannot be trained: all weights, where they are packed or not to be
    held in float32; more tokens than the context.
    """
    check(facts, held, lengths)
    a, stored = facts.architecture, STORED[held.dtype]
    rank = rank_of(held)
    trained = FLOAT * trained_weights(facts, rank)
    copies = 3 if rank else 2  # two moments of AdamW; adapters come beside the weights
    one = 0 if rank else FLOAT * max(map(math.prod, a.shapes().values()))
    always = {
        "libraries": libraries("training"),
        "tokenizer": facts.tokenizer,
        "weights": facts.held(stored),
    }
    training = always | {"trained weights and optimizer": copies * trained}
    layers = kept(a, held, lengths), attention_kept(a, held, lengths)
    slack = int(share_lost(facts, held) * a.layers * sum(layers))
    count = 1 if held.checkpointing else a.layers
    states = a.layers * lengths.tokens * a.hidden * WIDTHS[held.dtype] if held.checkpointing else 0
    slopes = {"slopes and gradients": backward(facts, held, lengths)}
    activations = {
        "states between layers": states,
        "activations": count * layers[0],
        "attention": count * layers[1],
    }
    at_head = {"states between layers": states} if held.checkpointing else activations
    return largest(
        {
            "loading": always | {"file": facts.converted(stored)},
            "head": training | at_head | {"slack": slack, "head": head(facts, held, lengths)},
            "backward": training | activations | {"slack": slack} | slopes,
            # Weights that are the best so far take the place of others only once they are copied.
            "update": training
            | {"gradients": trained, "best weights": trained, "AdamW": one}
            | {"not given back": int(RETAINED * (slack + sum(activations.values())))},
        }
    )


def rank_of(held: Held) -> int:
    """Return the rank of the adapters; 0: all weights are trained."""
    return RANK if held.rank is None else held.rank


def check(facts: ModelFacts, held: Held, lengths: Lengths) -> None:
    """Raise StropError for what cannot be trained."""
    if held.rank == 0 and facts.packed:
        raise StropError("packed weights are trained with a rank of at least 1")
    if held.rank == 0 and held.dtype != "float32":
        raise StropError("all weights are trained in float32 only")
    if lengths.longest > facts.architecture.context:
        raise StropError(
            f"{lengths.longest} tokens of prompt and completion do not fit into the context of "
            f"{facts.architecture.context}"
        )


def trained_weights(facts: ModelFacts, rank: int) -> int:
    """Return the number of weights that are trained: those of adapters, or all."""
    return adapter_weights(facts.architecture, rank) if rank else facts.weights


def adapter_weights(a: Architecture, rank: int) -> int:
    """Return the number of weights of the adapters of all matrices but the head."""
    return sum(rank * (rows + columns) for rows, columns in linear_shapes(a))


def linear_shapes(a: Architecture) -> list[tuple[int, int]]:
    """Return rows and columns of the matrices of all layers, to each of which an adapter goes."""
    outside = ("model.embed_tokens.weight", "lm_head.weight")
    return [
        (shape[0], shape[1])
        for name, shape in a.shapes().items()
        if len(shape) == 2 and name not in outside
    ]


def kept(a: Architecture, held: Held, lengths: Lengths) -> int:
    """Return the bytes that a layer keeps for the backward pass, without attention's."""
    width = WIDTHS[held.dtype]
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
    # Norms keep their input in float32 and its root mean square; what they return is the input of
    # matrices. The MLP keeps what SiLU gets and returns, the other factor, and their product.
    floats = 2 * (a.hidden + 1)
    numbers = 2 * a.hidden + 4 * a.inner
    if a.qk_norm:
        floats += queries + keys + a.heads + a.kv_heads
    if rank := rank_of(held):
        numbers += 7 * rank  # A x, of each of the seven matrices
    else:
        numbers += 2 * a.hidden + (queries + keys if a.qk_norm else 0)  # norms are trained too
    # Adapters are float32: in another type they are copies, which are kept too.
    copies = 0 if width == FLOAT else width * adapter_weights(a, rank_of(held)) // a.layers
    return lengths.tokens * (FLOAT * floats + width * numbers) + copies


def attention_kept(a: Architecture, held: Held, lengths: Lengths) -> int:
    """Return the bytes that the attention of a layer keeps."""
    # Queries, keys, values, and what came out, which is also the input of the next matrix.
    numbers = 2 * a.head_dim * (a.heads + a.kv_heads)
    return lengths.tokens * WIDTHS[held.dtype] * numbers


def share_lost(facts: ModelFacts, held: Held) -> float:
    """Return the slack, as a part of what all layers would keep."""
    if not held.checkpointing:
        return SLACK
    return SLACK_PACKED_CHECKPOINTED if facts.packed else SLACK_CHECKPOINTED


def head(facts: ModelFacts, held: Held, lengths: Lengths) -> int:
    """Return the bytes that finding log-probabilities takes for a moment, and the slopes."""
    a, width = facts.architecture, WIDTHS[held.dtype]
    rows = min(ROWS, lengths.scored)
    logits = rows * a.vocabulary * 2 * FLOAT  # with their logarithms of probabilities
    plain = facts.head.size * (FLOAT + (width if width != FLOAT else 0))
    return logits + lengths.scored * a.hidden * width + (plain if facts.head.format else 0)


def backward(facts: ModelFacts, held: Held, lengths: Lengths) -> int:
    """Return the bytes of what the backward pass of one layer makes, and of gradients."""
    a, width = facts.architecture, WIDTHS[held.dtype]
    made = lengths.tokens * width * (4 * a.inner)
    plain = max(rows * columns for rows, columns in linear_shapes(a)) * FLOAT if facts.packed else 0
    return made + plain + FLOAT * trained_weights(facts, rank_of(held))
