"""What a config.json says about a network, as numbers that the native engine runs.

One decoder covers all families here: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
They differ in a few switches and in the defaults of what a file leaves out, which are those of
transformers (configuration_*.py of each family).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from strop.models.config_fields import Fields
from strop.models.rope import Rope, read_rope

MOST_LAYERS = 1024


@dataclass(frozen=True)
class Family:
    """Where one model_type differs from the others."""

    kv_heads: int | None = None  #: if a file does not say; None: as many as heads
    head_dim: int | None = None  #: if a file does not say; None: hidden size / heads
    theta: float = 10_000.0  #: if a file does not say
    tied: bool = False  #: whether embedding and head are one, if a file does not say
    bias: str = "attention_bias"  #: "qkv", "none", or the key that asks for biases
    mlp_bias: bool = False  #: whether a file can ask for biases in the MLP
    qk_norm: bool = False  #: whether queries and keys are normalized, each head by itself
    windows: str = "none"  #: which layers have a sliding window: "none", "all" or "layer_types"
    no_rope: bool = False  #: whether some layers have no position embedding


FAMILIES = {
    "llama": Family(mlp_bias=True),
    "mistral": Family(kv_heads=8, bias="none", windows="all"),
    "qwen2": Family(kv_heads=32, bias="qkv", windows="layer_types"),
    "qwen3": Family(kv_heads=32, head_dim=128, qk_norm=True, windows="layer_types"),
    "smollm3": Family(
        kv_heads=4, theta=2e6, tied=True, mlp_bias=True, windows="layer_types", no_rope=True
    ),
}


@dataclass(frozen=True)
class Architecture:
    """A decoder, ready to be given its weights."""

    family: str  #: model_type of config.json
    layers: int
    hidden: int  #: elements of a token's state
    inner: int  #: width of the MLP
    heads: int  #: query heads
    kv_heads: int  #: key and value heads; `heads` is a multiple of it
    head_dim: int  #: elements of a head, an even number
    vocabulary: int
    context: int  #: most tokens in one sequence
    norm_epsilon: float
    tied: bool  #: the head's matrix is the embedding's
    qkv_bias: bool
    output_bias: bool  #: of the attention's output projection
    qk_norm: bool
    windows: tuple[int, ...]  #: keys that each layer sees, counted back from the query; 0: all
    rotary: tuple[bool, ...]  #: whether each layer turns queries and keys by their position
    rope: Rope

    @classmethod
    def parse(cls, config: Mapping[str, Any], where: str) -> Architecture:
        """Read the contents of a config.json; errors begin with `where`.

        Raises StropError, which names it, for what the engine does not run and for bad values.
        """
        fields = Fields(where, config)
        name = config.get("model_type")
        if not isinstance(name, str) or name not in FAMILIES:
            raise fields.unsupported(f"models of type {name!r:.40}, only {', '.join(FAMILIES)}")
        family = FAMILIES[name]
        refuse(fields, family)
        hidden, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
        layers, context = fields.whole("num_hidden_layers"), fields.whole("max_position_embeddings")
        if layers > MOST_LAYERS:
            raise fields.error("num_hidden_layers", f"must be at most {MOST_LAYERS}, not {layers}")
        head_dim = fields.whole("head_dim", absent(config, "head_dim", family, hidden // heads))
        if head_dim % 2:
            raise fields.error("head_dim", f"must be an even number, not {head_dim}")
        kv_heads = fields.whole(
            "num_key_value_heads", absent(config, "num_key_value_heads", family, heads)
        )
        if heads % kv_heads:
            raise fields.error(
                "num_attention_heads", f"({heads}) is no multiple of num_key_value_heads {kv_heads}"
            )
        asked = family.bias == "attention_bias" and fields.flag("attention_bias", False)
        rotary = rotary_layers(fields, family, layers)
        return cls(
            family=name,
            layers=layers,
            hidden=hidden,
            inner=fields.whole("intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocabulary=fields.whole("vocab_size"),
            context=context,
            norm_epsilon=fields.number("rms_norm_eps", 1e-6),
            tied=fields.flag("tie_word_embeddings", family.tied),
            qkv_bias=asked or family.bias == "qkv",
            output_bias=asked,
            qk_norm=family.qk_norm,
            windows=layer_windows(fields, family, rotary),
            rotary=rotary,
            rope=read_rope(fields, head_dim, context, family.theta),
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor of the network, as transformers calls them."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (queries, self.hidden),
            "self_attn.k_proj.weight": (keys, self.hidden),
            "self_attn.v_proj.weight": (keys, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, queries),
            "post_attention_layernorm.weight": (self.hidden,),
            "mlp.gate_proj.weight": (self.inner, self.hidden),
            "mlp.up_proj.weight": (self.inner, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.inner),
        }
        if self.qkv_bias:
            layer |= {f"self_attn.{name}_proj.bias": (keys,) for name in "kv"}
            layer["self_attn.q_proj.bias"] = (queries,)
        if self.output_bias:
            layer["self_attn.o_proj.bias"] = (self.hidden,)
        if self.qk_norm:
            layer |= {f"self_attn.{name}_norm.weight": (self.head_dim,) for name in "qk"}
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        for index in range(self.layers):
            shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
        return shapes


def absent(config: Mapping[str, Any], key: str, family: Family, derived: int) -> int:
    """Return what stands for a size that is null (derived from others) or absent (family's)."""
    default = {"head_dim": family.head_dim, "num_key_value_heads": family.kv_heads}[key]
    return derived if key in config or default is None else default


def refuse(fields: Fields, family: Family) -> None:
    """Raise StropError for options that the engine does not have."""
    if (activation := fields.get("hidden_act", "silu")) != "silu":
        raise fields.unsupported(f"the activation {activation!r:.40}")
    if family.mlp_bias and fields.flag("mlp_bias", False):
        raise fields.unsupported("biases in the MLP (mlp_bias)")


def rotary_layers(fields: Fields, family: Family, layers: int) -> tuple[bool, ...]:
    """Tell which layers have rotary positions: in SmolLM3 every fourth has none (NoPE)."""
    if not family.no_rope:
        return (True,) * layers
    given = fields.values.get("no_rope_layers")
    if given is None:
        interval = fields.whole("no_rope_layer_interval", 4)
        return tuple((index + 1) % interval != 0 for index in range(layers))
    numbers = isinstance(given, list) and all(isinstance(one, int) for one in given)
    if not numbers or len(given) < layers:
        raise fields.error("no_rope_layers", f"must be a list of 0 and 1, {layers} of them")
    return tuple(bool(one) for one in given[:layers])


def layer_windows(fields: Fields, family: Family, rotary: tuple[bool, ...]) -> tuple[int, ...]:
    """Return the sliding window of each layer, 0 for none."""
    layers, config = len(rotary), fields.values
    if family.windows == "none":
        return (0,) * layers
    if family.windows == "all":
        if "sliding_window" in config and config["sliding_window"] is None:
            return (0,) * layers
        return (fields.whole("sliding_window", 4096),) * layers
    used = fields.flag("use_sliding_window", False)
    sliding = layer_types(fields, family, rotary, used)
    if not any(sliding):
        return (0,) * layers
    if family.no_rope:  # here layer_types hold even without use_sliding_window
        window = fields.whole("sliding_window")
    elif used:
        window = fields.whole("sliding_window", 4096)
    else:
        raise fields.error("layer_types", "has sliding layers, but use_sliding_window is false")
    return tuple(window if one else 0 for one in sliding)


def layer_types(fields: Fields, family: Family, rotary: tuple[bool, ...], used: bool) -> list[bool]:
    """Tell which layers slide: those listed, or else those that the family's rule says."""
    layers, given = len(rotary), fields.values.get("layer_types")
    if given is None:
        default = None if family.no_rope else 4096
        if not used or fields.values.get("sliding_window", default) is None:
            return [False] * layers
        if family.no_rope:
            return [not one for one in rotary]
        first = fields.whole("max_window_layers", 28, least=0)
        return [index >= first for index in range(layers)]
    if not isinstance(given, list) or len(given) != layers:
        raise fields.error("layer_types", f"must be a list of {layers} names")
    for one in given:
        if one not in ("full_attention", "sliding_attention"):
            raise fields.unsupported(f"layers of type {one!r:.40}")
    return [one == "sliding_attention" for one in given]
