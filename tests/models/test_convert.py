from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from strop.errors import StropError
from strop.models import Tokenizer, open_checkpoint
from strop.models.convert import convert_gguf

TOKENS = torch.tensor([[3, 50, 7, 200, 8, 9, 100, 41, 3, 3, 77]])

Build = Callable[..., Any]


def load(directory: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, **options
    ).eval()


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(TOKENS).logits


def converted(path: Path) -> Path:
    directory = path.with_suffix("")
    directory.mkdir()
    convert_gguf(path, directory)
    return directory


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": False}),
        ("smollm3", {"num_hidden_layers": 4}),  # the fourth has no rotary embedding
    ],
)
def test_a_model_comes_back_as_it_was(
    architecture: str,
    changes: dict[str, Any],
    tmp_path: Path,
    build_network: Build,
    write_gguf: Build,
) -> None:
    network = build_network(architecture, **changes)
    directory = converted(write_gguf(tmp_path / "model.gguf", network, architecture))
    checkpoint = open_checkpoint(directory)
    state = network.state_dict()
    tied = {"lm_head.weight"} if network.config.tie_word_embeddings else set()
    assert set(checkpoint.names) == state.keys() - tied
    for name in checkpoint.names:
        assert np.array_equal(checkpoint.read(name), state[name].numpy()), name
    assert torch.equal(logits(load(directory)), logits(network))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantized_weights_are_those_of_transformers(
    kind: str, tmp_path: Path, tiny_network: Any, write_gguf: Build
) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_network, kind=kind)
    expected = load(tmp_path, gguf_file=path.name).state_dict()
    checkpoint = open_checkpoint(converted(path))
    assert {checkpoint.dtype(name) for name in checkpoint.names} == {"F32"}
    for name in checkpoint.names:
        assert np.array_equal(checkpoint.read(name), expected[name].numpy()), name


def test_half_precision_is_kept(tmp_path: Path, tiny_network: Any, write_gguf: Build) -> None:
    for kind in ("F16", "BF16"):
        path = write_gguf(tmp_path / f"{kind}.gguf", tiny_network, kind=kind)
        checkpoint = open_checkpoint(converted(path))
        dtype = {"F16": torch.float16, "BF16": torch.bfloat16}[kind]
        for name in checkpoint.names:
            weight = tiny_network.state_dict()[name]
            expected = weight.to(dtype).float() if weight.dim() > 1 else weight
            assert checkpoint.dtype(name) == (kind if weight.dim() > 1 else "F32")
            assert np.array_equal(checkpoint.read(name), expected.numpy()), name


def test_pieces_of_a_large_tensor_fit_together(
    tmp_path: Path, tiny_network: Any, write_gguf: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "model.gguf", tiny_network, kind="Q5_1")
    whole = (converted(path) / "model.safetensors").read_bytes()
    monkeypatch.setattr("strop.models.convert.CHUNK", 7 * 64)
    (tmp_path / "again").mkdir()
    convert_gguf(path, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("metadata", "scaling"),
    [
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"type": "yarn", "factor": 2.0, "original_context_length": 64},
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64},
        ),
    ],
)
def test_rope_scaling_reaches_the_model(
    metadata: dict[str, Any], scaling: dict[str, Any], tmp_path: Path, build_network: Build,
    write_gguf: Build,
) -> None:  # fmt: skip
    rope = {"rope_theta": 5000.0, **scaling}
    network = build_network("llama", rope_parameters=rope)

    def edit(keys: dict[str, Any], _: Any) -> None:
        keys |= {f"llama.rope.scaling.{key}": value for key, value in metadata.items()}

    directory = converted(write_gguf(tmp_path / "model.gguf", network, edit=edit))
    assert torch.equal(logits(load(directory)), logits(network))
    assert not torch.equal(logits(network), logits(build_network("llama")))


def llama3_factors(factor: float, theta: float = 5000.0, size: int = 16) -> np.ndarray:
    """The divisors that llama.cpp's converter stores, one frequency at a time (Llama 3.1)."""
    factors = []
    for index in range(0, size, 2):
        wavelength = 2 * np.pi * theta ** (index / size)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192 / 1:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def test_llama3_frequencies_are_recovered(
    tmp_path: Path, build_network: Build, write_gguf: Build
) -> None:
    rope = {
        "rope_theta": 5000.0,
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    network = build_network("llama", rope_parameters=rope)

    def edit(_: Any, tensors: dict[str, Any]) -> None:
        tensors["rope_freqs.weight"] = (llama3_factors(32.0), "F32")

    directory = converted(write_gguf(tmp_path / "model.gguf", network, edit=edit))
    assert json.loads((directory / "config.json").read_text())["rope_scaling"]["factor"] == 32.0
    assert torch.equal(logits(load(directory)), logits(network))


def removed(key: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def edit(metadata: dict[str, Any], tensors: dict[str, Any]) -> None:
        (metadata if key in metadata else tensors).pop(key)

    return edit


def changed(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def edit(metadata: dict[str, Any], _: dict[str, Any]) -> None:
        metadata |= {key.replace("__", "."): value for key, value in changes.items()}

    return edit


def added(name: str, values: np.ndarray) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def edit(_: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = (values, "F32")

    return edit


ONES = np.ones(8, dtype=np.float32)
EPSILON = "llama.attention.layer_norm_rms_epsilon"
REFUSED = {
    "no block count": (removed("llama.block_count"), "llama.block_count is missing"),
    "no embedding": (removed("token_embd.weight"), "token_embd.weight is missing"),
    "a tensor short": (removed("blk.1.ffn_up.weight"), "blk.1.ffn_up.weight"),
    "a tensor too many": (added("blk.0.ffn_gate_inp.weight", ONES), "not understood"),
    "a wrong shape": (added("output_norm.weight", ONES), r"output_norm.weight is \(8,\)"),
    "half of the biases": (added("blk.0.attn_q.bias", np.ones(64, np.float32)), "are missing"),
    "experts": (changed(llama__expert_count=8), "not understood"),
    "sliding window": (changed(llama__attention__sliding_window=64), "not understood"),
    "no heads": (changed(llama__attention__head_count=0), "head_count is 0"),
    "no kv heads": (changed(llama__attention__head_count_kv=0), "head_count_kv is 0"),
    "kv heads that do not fit": (changed(llama__attention__head_count_kv=3), "3 kv heads"),
    "an epsilon that is no number": (changed(**{EPSILON: float("nan")}), "epsilon is nan"),
    "no base": (changed(llama__rope__freq_base=0.0), "freq_base is 0.0"),
    "heads per layer": (changed(llama__attention__head_count_kv=[2, 2]), "not of type int"),
    "text for a number": (changed(llama__block_count="2"), "not of type int"),
    "a billion blocks": (changed(llama__block_count=10**9), "larger than the number of tensors"),
    "partial rotation": (changed(llama__rope__dimension_count=8), "differs from the head size"),
    "longrope": (changed(llama__rope__scaling__type="longrope"), "longrope is not supported"),
    "linear without factor": (changed(llama__rope__scaling__type="linear"), "factor is missing"),
    "odd frequencies": (added("rope_freqs.weight", ONES * np.arange(8)), "not those of Llama 3"),
    "few frequencies": (added("rope_freqs.weight", ONES[:3]), "3 factors"),
    "no tokenizer": (removed("tokenizer.ggml.model"), "tokenizer.ggml.model is missing"),
    "no tokens": (removed("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens is missing"),
    "no merges": (removed("tokenizer.ggml.merges"), "tokenizer.ggml.merges is missing"),
    "no token types": (removed("tokenizer.ggml.token_type"), "token_type is missing"),
    "no rule for words": (removed("tokenizer.ggml.pre"), "tokenizer.ggml.pre is missing"),
    "unknown rule for words": (changed(tokenizer__ggml__pre="new"), "pre-tokenizer new"),
    "unknown tokenizer": (changed(tokenizer__ggml__model="rwkv"), "tokenizer model rwkv"),
    "a merge of nothing": (changed(tokenizer__ggml__merges=["q q"]), "merge 'q q' makes no token"),
    "a merge of one": (changed(tokenizer__ggml__merges=["the"]), "makes no token"),
    "an end that is no token": (changed(tokenizer__ggml__eos_token_id=9999), "not a token"),
    "a token twice": (changed(tokenizer__ggml__tokens=["a", "a"]), "same token twice"),
    "too many tokens": (
        changed(tokenizer__ggml__tokens=[str(index) for index in range(400)]),
        "embedding of 271 rows",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(
    case: str, tmp_path: Path, tiny_network: Any, write_gguf: Build
) -> None:
    edit, reason = REFUSED[case]
    path = write_gguf(tmp_path / "model.gguf", tiny_network, edit=edit)
    with pytest.raises(StropError, match=re.escape(str(path)) + ".*" + reason) as caught:
        converted(path)
    assert caught.value.exit_code == 2


def test_an_unknown_architecture_names_the_known_ones(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        StropError, match="mamba is not supported, only llama, qwen2, qwen3, smollm3"
    ):
        convert_gguf(tmp_path / "model.gguf", tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_file_is_converted_or_refused(
    data: st.DataObject, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(tiny_gguf.read_bytes())
    # Nearly all that can go wrong is in the first part; tensor data are only numbers.
    end = min(12_000, len(content))
    for _ in range(data.draw(st.integers(0, 3), label="changes")):
        position = data.draw(st.integers(0, end - 1), label="position")
        content[position] = data.draw(st.integers(0, 255), label="byte")
    if data.draw(st.booleans(), label="truncate"):
        del content[data.draw(st.integers(0, len(content)), label="length") :]
    directory = tmp_path_factory.mktemp("damaged")
    (directory / "model.gguf").write_bytes(content)
    path = directory / "model.gguf"
    try:
        convert_gguf(path, directory)
    except StropError as error:
        refusal = str(error)
    else:
        # What is accepted must be whole.
        refusal = f"{path}: none"
        open_checkpoint(directory)
        Tokenizer.from_directory(directory).encode("the 12 things")
    assert refusal.startswith(f"{path}: ")
