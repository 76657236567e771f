"""What is read from config.json, against the modules that transformers builds from the same."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.errors import StropError
from strop.models.architecture import FAMILIES, Architecture

CONFIGS = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "smollm3": transformers.SmolLM3Config,
}

SIZES = {
    "vocab_size": 80,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}

#: name -> what a config.json may say about rotary positions
ROPES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "old theta": {"rope_theta": 50000.0},
    "whole theta": {"rope_theta": 5000000},
    "new": {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}},
    "both thetas": {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 777.0}},
    "null scaling": {"rope_theta": 5e5, "rope_scaling": None},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "old linear": {"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 2}},
    "scaling before parameters": {
        "rope_scaling": {"rope_type": "linear", "factor": 2.5},
        "rope_parameters": {"rope_type": "linear", "factor": 3.5},
    },
    "llama3": {
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "original_max_position_embeddings": 64,
            **LLAMA3,
        },
    },
    "llama3 without its length": {"rope_parameters": {"rope_type": "llama3", **LLAMA3}},
    "llama3 with its length outside": {
        "original_max_position_embeddings": 100,
        "rope_parameters": {"rope_type": "llama3", **LLAMA3},
    },
    "yarn": {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", **YARN}},
    "yarn small theta": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 20.0, **YARN}},
    "yarn factor": {"rope_parameters": {"rope_type": "yarn", "attention_factor": 1.5, **YARN}},
    "yarn null factor": {"rope_parameters": {"rope_type": "yarn", **YARN, "factor": None}},
    "yarn below one": {"rope_parameters": {"rope_type": "yarn", **YARN, "factor": 0.5}},
    "yarn mscale": {
        "rope_parameters": {"rope_type": "yarn", "mscale": 0.7, "mscale_all_dim": 1.3, **YARN}
    },
    "yarn one mscale": {"rope_parameters": {"rope_type": "yarn", "mscale": 0.7, **YARN}},
    "yarn zero mscale": {
        "rope_parameters": {"rope_type": "yarn", "mscale": 0.7, "mscale_all_dim": 0, **YARN}
    },
    "yarn betas": {
        "rope_parameters": {"rope_type": "yarn", "beta_fast": 8, "beta_slow": 2.5, **YARN}
    },
    "yarn not truncated": {"rope_parameters": {"rope_type": "yarn", "truncate": False, **YARN}},
    "yarn wide": {"rope_parameters": {"rope_type": "yarn", "beta_fast": 1, "beta_slow": 1, **YARN}},
}


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family, **SIZES, **copy.deepcopy(changes)}


def network_of(config: dict[str, Any]) -> Any:
    settings = {key: one for key, one in copy.deepcopy(config).items() if key != "model_type"}
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(
            CONFIGS[config["model_type"]].from_dict(settings)
        )
    return network


def parse(config: dict[str, Any]) -> Architecture:
    return Architecture.parse(config, "config.json")


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("rope", ROPES)
def test_rotary_positions_are_those_of_transformers(family: str, rope: str) -> None:
    config = config_of(family, **ROPES[rope])
    ours = parse(config).rope
    settings = CONFIGS[family].from_dict(copy.deepcopy(config))
    module = transformers.AutoModelForCausalLM.from_config(settings).model.rotary_emb
    np.testing.assert_allclose(ours.frequencies, module.inv_freq.numpy(), rtol=1e-6, atol=0)
    assert ours.scale == pytest.approx(module.attention_scaling, rel=1e-12)


def test_the_types_of_rotary_positions_differ() -> None:
    """Negative control: a rule that did nothing would not pass for another."""
    found = {name: parse(config_of("llama", **rope)).rope for name, rope in ROPES.items()}
    same = [name for name in found if found[name] == found["nothing"]]
    assert same == ["nothing"]
    assert len(set(found.values())) >= 17


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False},
        {"attention_bias": True},
        {"head_dim": 24},
        {"num_key_value_heads": None},
        {"num_key_value_heads": 1},
    ],
)
def test_tensors_are_those_of_transformers(family: str, changes: dict[str, Any]) -> None:
    if family == "mistral" and None in changes.values():
        pytest.skip("transformers refuses null here")
    config = config_of(family, **changes)
    network = network_of(config)
    state = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if network.config.tie_word_embeddings:
        del state["lm_head.weight"]
    assert parse(config).shapes() == state


@pytest.mark.parametrize("family", CONFIGS)
def test_what_a_file_leaves_out(family: str) -> None:
    left_out = ("num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings")
    sizes = {key: one for key, one in SIZES.items() if key not in left_out}
    config = {"model_type": family, **sizes, "num_attention_heads": 32, "hidden_size": 128}
    theirs = network_of(config)
    ours = parse(config)
    attention = theirs.model.layers[0].self_attn
    assert ours.norm_epsilon == theirs.config.rms_norm_eps
    assert ours.tied == theirs.config.tie_word_embeddings
    assert ours.head_dim == attention.head_dim
    assert ours.kv_heads * ours.head_dim == attention.k_proj.out_features
    assert ours.context == theirs.config.max_position_embeddings == 256


def theirs_sees(network: Any) -> list[int]:
    """How many keys the query at position 39 sees in each layer, by transformers' own masks."""
    seen: list[int] = []

    def look(module: Any, arguments: Any, options: Any) -> None:
        mask = options["attention_mask"]
        seen.append(40 if mask is None else int(mask[0, 0, -1].sum()))

    for layer in network.model.layers:
        layer.self_attn.register_forward_pre_hook(look, with_kwargs=True)
    network(torch.zeros(1, 40, dtype=torch.long))
    return seen


SLIDING = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"sliding_window": 8}),
        ("mistral", {}),
        ("mistral", {"sliding_window": 8}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"sliding_window": 8}),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True}),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}),
        ("qwen2", {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 2}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": SLIDING}),
        ("qwen3", {"sliding_window": 8, "layer_types": ["full_attention"] * 5}),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 1}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 8}),
        ("smollm3", {"use_sliding_window": True}),
        ("smollm3", {"sliding_window": 8}),
        ("smollm3", {"sliding_window": 8, "layer_types": SLIDING}),
        (
            "smollm3",
            {"use_sliding_window": True, "sliding_window": 8, "no_rope_layers": [0, 1, 0, 1, 1]},
        ),
    ],
)
def test_windows_are_those_of_transformers(family: str, changes: dict[str, Any]) -> None:
    config = config_of(family, **changes)
    settings = CONFIGS[family].from_dict(copy.deepcopy(config))
    network = transformers.AutoModelForCausalLM.from_config(settings, attn_implementation="sdpa")
    ours = [min(window or 40, 40) for window in parse(config).windows]
    assert ours == theirs_sees(network)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"no_rope_layer_interval": 2},
        {"no_rope_layer_interval": 1},
        {"no_rope_layers": [0, 1, 1, 0, 1]},
        {"no_rope_layers": [1, 1, 1, 0, 1, 0, 0]},
        {"no_rope_layers": None, "no_rope_layer_interval": 3},
    ],
)
def test_layers_without_positions(changes: dict[str, Any]) -> None:
    config = config_of("smollm3", **changes)
    layers = network_of(config).model.layers
    assert parse(config).rotary == tuple(bool(layer.self_attn.use_rope) for layer in layers)
    assert parse(config | {"model_type": "qwen3"}).rotary == (True,) * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "does not run models of type 'gpt2', only llama, mistral"),
        ({"model_type": None}, "models of type None"),
        ({"hidden_act": "gelu"}, "the activation 'gelu'"),
        ({"mlp_bias": True}, "biases in the MLP"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "of type 'dynamic'"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, r"of type \['yarn'\]"),
        ({"partial_rotary_factor": 0.5}, "of a part of each head"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "of a part of each head"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "between layer types"),
    ],
)
def test_what_the_engine_lacks_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StropError, match=rf"config\.json: .*{message}.*: use the torch backend"):
        parse(config_of("llama") | changes)


def test_other_layers_are_named() -> None:
    changes = {"layer_types": ["full_attention"] * 4 + ["chunked_attention"]}
    with pytest.raises(StropError, match=r"layers of type 'chunked_attention'.*--backend torch"):
        parse(config_of("qwen3", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "hidden_size must be a whole number from 1 to 16777216, not None"),
        ({"hidden_size": 64.0}, "hidden_size must be a whole number"),
        ({"vocab_size": "80"}, "vocab_size must be a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads must be a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number"),
        ({"num_hidden_layers": 1025}, "num_hidden_layers must be at most 1024"),
        ({"intermediate_size": -1}, "intermediate_size must be"),
        ({"num_key_value_heads": 3}, r"\(4\) is no multiple of num_key_value_heads 3"),
        ({"num_key_value_heads": 8}, "is no multiple"),
        ({"head_dim": 15}, "head_dim must be an even number"),
        ({"head_dim": []}, "head_dim must be a whole number"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a number from 1e-30 to 1e\\+30, not 0"),
        (
            {"rms_norm_eps": float("nan")},
            "rms_norm_eps must be a number from 1e-30 to 1e\\+30, not nan",
        ),
        (
            {"rms_norm_eps": 10**400},
            "rms_norm_eps must be a number from 1e-30 to 1e\\+30, not 1000",
        ),
        (
            {"rope_theta": float("inf")},
            "rope_theta must be a number from 1e-30 to 1e\\+30, not inf",
        ),
        ({"rope_theta": 1.0}, "rope_theta must be above 1"),
        ({"rope_parameters": []}, "rope_parameters must be an object"),
        ({"rope_scaling": "yarn"}, "rope_scaling must be an object"),
        ({"rope_scaling": {"type": "linear"}}, r"rope_scaling\.factor must be a number"),
        ({"rope_scaling": {"type": "yarn"}}, r"rope_scaling\.factor is missing"),
        (
            {"rope_scaling": {"type": "llama3", **LLAMA3, "low_freq_factor": 4}},
            r"high_freq_factor must be above low_freq_factor \(4\.0\)",
        ),
        ({"rope_scaling": {"type": "yarn", **YARN, "truncate": 1}}, "must be true or false"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, not 'yes'"),
        ({"attention_bias": 1}, "attention_bias must be true or false"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StropError, match=rf"^config\.json: .*{message}"):
        parse(config_of("llama") | changes)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window must be a whole number"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types must be a list of 5 names"),
        ("qwen2", {"layer_types": SLIDING}, "use_sliding_window is false"),
        ("smollm3", {"layer_types": SLIDING}, "sliding_window must be a whole number"),
        ("smollm3", {"no_rope_layers": [1, 1]}, "no_rope_layers must be a list of 0 and 1, 5"),
        ("smollm3", {"no_rope_layers": "10101"}, "no_rope_layers must be a list"),
        ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval must be a whole number"),
    ],
)
def test_bad_layers_are_named(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StropError, match=message):
        parse(config_of(family, **changes))


KEYS = [
    *SIZES,
    *("model_type", "head_dim", "rms_norm_eps", "hidden_act", "mlp_bias", "attention_bias"),
    *("tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "layer_types"),
    *("sliding_window", "use_sliding_window", "max_window_layers", "no_rope_layers"),
    *("no_rope_layer_interval", "partial_rotary_factor", "original_max_position_embeddings"),
]
ROPE_KEYS = [
    *("rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate"),
    "original_max_position_embeddings",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["linear", "llama3", "yarn", "default", *FAMILIES, *set(SLIDING)])
)
VALUES = (
    SCALARS | st.lists(SCALARS, max_size=6) | st.dictionaries(st.sampled_from(ROPE_KEYS), SCALARS)
)


@settings(max_examples=400, deadline=None)
@given(
    family=st.sampled_from(list(FAMILIES)),
    rope=st.sampled_from(list(ROPES)),
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    inner=st.dictionaries(st.sampled_from(ROPE_KEYS), SCALARS, max_size=2),
)
def test_any_config_gives_an_architecture_or_one_line(
    family: str, rope: str, changes: dict[str, Any], inner: dict[str, Any]
) -> None:
    config = config_of(family, **ROPES[rope])
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(config.get(key), dict):
            config[key] |= inner
    with contextlib.suppress(StropError):
        found = parse(config | changes)
        assert len(found.windows) == len(found.rotary) == found.layers
        assert len(found.rope.frequencies) == found.head_dim // 2
        assert np.isfinite(np.float32(found.rope.frequencies)).all()
        assert np.isfinite(np.float32(found.rope.scale))
