"""The native engine against PyTorch, which is given the same roundings by hand, and itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from tests.models.packed_models import FAMILIES, RUN, TOKENS, Packed, changed, logits_of, native

from strop import _native
from strop.blockfp import FORMATS
from strop.errors import StropError
from strop.models import pack
from strop.models.native_backend import KV_FORMATS
from strop.models.packed import describe
from strop.models.torch_backend import TorchModel

PROMPTS: list[list[int]] = np.random.default_rng(8).integers(0, 271, (6, 12)).tolist()


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Eight-bit integers under one float32 scale per block of 32, as activations are rounded."""
    width = x.shape[-1]
    blocks = torch.nn.functional.pad(x, (0, -width % 32)).unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True)
    integers = torch.round(blocks * torch.where(largest > 0, 127 / largest, 0))
    return (integers * (largest / 127)).flatten(-2)[..., :width]


KV_ROUNDINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "fp16": lambda x: x.half().float(),
    "bfp8": rounded,
}


def reference(directory: Path, kv: str = "fp16", round_inputs: bool = True) -> np.ndarray:
    """What PyTorch says with dequantized weights, rounded inputs of all products, rounded cache."""

    class RoundedCache(transformers.DynamicCache):  # type: ignore[misc]
        def update(self, keys: Any, values: Any, *rest: Any, **more: Any) -> Any:
            both = KV_ROUNDINGS[kv](keys), KV_ROUNDINGS[kv](values)
            return super().update(*both, *rest, **more)

    network = TorchModel("reference", directory).network
    if round_inputs:
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    with torch.no_grad():
        outputs = [
            network(input_ids=torch.tensor([ids]), past_key_values=RoundedCache()).logits[0]
            for ids in PROMPTS
        ]
    return np.asarray(torch.cat(outputs).numpy())


def agreement(directory: Path, expected: np.ndarray, kv: str = "fp16") -> float:
    """The share of tokens whose logits are equal but for the errors of adding floats.

    Now and then such an error turns a rounding to eight bits the other way: then that token and
    those after it in its prompt differ by more.
    """
    model = native(directory, kv=kv)
    logits = np.concatenate([logits_of(model, ids) for ids in PROMPTS])
    errors = np.abs(logits - expected).max(axis=1) / expected.std()
    return float((errors < 1e-5).mean())


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_same_arithmetic_in_torch(
    family: str, kv: str, packed: Packed, one_thread: None
) -> None:
    directory = packed(family)
    assert agreement(directory, reference(directory, kv), kv) > 0.5
    # Negative controls: without either of the roundings not a token would pass.
    assert agreement(directory, reference(directory, kv, round_inputs=False), kv) == 0
    other = {"fp16": "bfp8", "bfp8": "fp16"}[kv]
    assert agreement(directory, reference(directory, other), kv) == 0


@pytest.mark.parametrize("format", [*RUN, "bfp4+bfp8", "mxint8+mxfp4"])
def test_every_format_that_runs(format: str, packed: Packed, one_thread: None) -> None:
    directory = packed("llama", format)
    assert agreement(directory, reference(directory)) > 0.5


def test_the_formats_that_run() -> None:
    """All of ours, and all published ones whose values are integers of eight bits."""
    assert {"bfp8", "bfp6", "bfp5", "bfp4", "mxfp4", "nvfp4", "mxint8", "msfp12"} <= set(RUN)
    assert not {"mx4", "mx6", "mx9", "mxfp8_e5m2", "mxfp8_e4m3"} & set(RUN)


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_rows_gives_the_same_bits(family: str, kv: str, packed: Packed) -> None:
    model = native(packed(family), kv=kv)
    whole = logits_of(model)
    assert whole.shape == (40, model.vocabulary)
    assert whole.std() > 0.1
    for rows in range(1, 17):
        session = model.session()
        parts = [session.forward(TOKENS[at : at + rows]) for at in range(0, 40, rows)]
        assert np.array_equal(np.concatenate(parts), whole), rows


@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_threads_gives_the_same_bits(
    family: str, packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("STROP_THREADS", threads)
        model = native(packed(family))
        session = model.session()
        found.append((logits_of(model), session.forward(TOKENS[:1]), session.forward(TOKENS[1:8])))
    for other in found[1:]:
        assert all(map(np.array_equal, found[0], other))


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("isa", _native.instruction_sets())
def test_every_instruction_set_gives_the_bits_of_plain_c(
    isa: str, kv: str, packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [(family, "bfp5") for family in FAMILIES] + [("llama", format) for format in RUN]
    for family, format in cases:
        model = native(packed(family, format), kv=kv)
        monkeypatch.setenv("STROP_ISA", "scalar")
        expected = logits_of(model)
        monkeypatch.setenv("STROP_ISA", isa)
        assert np.array_equal(logits_of(model), expected), (family, format)
        assert np.array_equal(model.session().forward(TOKENS[:1]), expected[:1])


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_no_number_stays_with_the_tokens_that_see_it(
    family: str, kv: str, packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = load_file(packed(family, "mxfp4") / "model.safetensors")
    name = "model.embed_tokens.weight_scales"
    damaged = scales[name].copy()
    damaged[TOKENS[11]] = 254  # a number, but not times the largest element
    directory = changed(packed(family, "mxfp4"), tmp_path, **{name: damaged})
    tokens = [token for token in TOKENS if token != TOKENS[11]]
    tokens.insert(11, TOKENS[11])
    found = []
    for isa in _native.instruction_sets():
        monkeypatch.setenv("STROP_ISA", isa)
        for threads in ("1", "5"):
            monkeypatch.setenv("STROP_THREADS", threads)
            model = native(directory, kv=kv)
            session = model.session()
            found += [logits_of(model, tokens)]
            found += [np.concatenate([session.forward([token]) for token in tokens])]
    others = np.arange(found[0].shape[1]) != TOKENS[11]  # of which the head may be the embedding
    assert np.isfinite(found[0][:11, others]).all()
    assert np.isnan(found[0][11:13, others]).all()
    for other in found[1:]:
        assert np.array_equal(found[0], other, equal_nan=True)


@pytest.mark.parametrize("last", [None, 1, 3])
def test_a_batch_gives_the_bits_of_each_alone(last: int | None, packed: Packed) -> None:
    model = native(packed("qwen3"))
    pieces = [TOKENS[:7], TOKENS[3:4], TOKENS[10:40], [], TOKENS[:7]]
    sessions = [model.session() for _ in pieces]
    sessions[1].forward(TOKENS[:3])
    expected = []
    for index, piece in enumerate(pieces):
        alone = model.session()
        alone.forward(TOKENS[:3] if index == 1 else [])
        rows = alone.forward(piece)
        expected.append(rows if last is None else rows[max(0, len(rows) - last) :])
    found = model.forward(sessions, pieces, last)
    assert all(map(np.array_equal, found, expected))
    assert [session.length for session in sessions] == [7, 4, 30, 0, 7]
    assert model.forward([], []) == []


@pytest.mark.parametrize("kv", KV_FORMATS)
def test_a_rollback_leaves_nothing(kv: str, packed: Packed) -> None:
    for family in FAMILIES:
        model = native(packed(family), kv=kv)
        whole = logits_of(model)
        session = model.session()
        session.forward(TOKENS[::-1])
        for kept in (39, 20, 17, 5, 1, 0):
            session.truncate(0)
            session.forward(TOKENS[:kept])
            session.forward(TOKENS[::-1][: 40 - kept])
            session.truncate(kept)
            assert session.length == kept
            assert np.array_equal(session.forward(TOKENS[kept:]), whole[kept:]), (family, kept)
    for length in (41, -1):
        with pytest.raises(ValueError, match="cannot roll back 40 tokens"):
            session.truncate(length)


@pytest.mark.parametrize("kv", KV_FORMATS)
def test_a_fork_goes_its_own_way(kv: str, packed: Packed) -> None:
    for family in FAMILIES:
        model = native(packed(family), kv=kv)
        whole = logits_of(model)
        for kept in (0, 1, 17, 39):
            session = model.session()
            session.forward(TOKENS[:kept])
            other = session.fork()
            session.forward(TOKENS[::-1][: 40 - kept])
            assert other.length == kept
            assert np.array_equal(other.forward(TOKENS[kept:]), whole[kept:]), (family, kept)
            session.truncate(kept)
            assert np.array_equal(session.forward(TOKENS[kept:]), whole[kept:]), (family, kept)


@pytest.mark.parametrize("format", RUN)
def test_weights_in_the_file_give_the_bits_of_those_in_memory(format: str, packed: Packed) -> None:
    directory = packed("llama", format)
    streamed = native(directory, resident=False)
    assert np.array_equal(logits_of(streamed), logits_of(native(directory, resident=True)))


def test_long_prompts(packed: Packed, tmp_path: Path) -> None:
    directory = changed(packed("mistral"), tmp_path, config={"max_position_embeddings": 1200})
    tokens = [index * 31 % 271 for index in range(1100)]
    whole = logits_of(native(directory), tokens)
    session = native(directory).session()
    parts = [session.forward(tokens[at : at + 99]) for at in range(0, 1100, 99)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(native(directory).session().forward(tokens, last=2), whole[-2:])


def test_the_real_model_in_every_way(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack("smollm2", "bfp4+bfp6", tmp_path / "packed")
    monkeypatch.setenv("STROP_THREADS", "2")
    model = native(tmp_path / "packed")
    tokens = model.tokenizer.encode("The capital of France is Paris. The capital of Italy is")
    whole = logits_of(model, tokens)
    assert model.tokenizer.decode([int(whole[-1].argmax())]) == " Rome"
    for rows in (1, 2, 3, 5, 8):
        session = model.session()
        parts = [session.forward(tokens[at : at + rows]) for at in range(0, len(tokens), rows)]
        assert np.array_equal(np.concatenate(parts), whole)
    for isa in _native.instruction_sets():
        monkeypatch.setenv("STROP_ISA", isa)
        assert np.array_equal(logits_of(model, tokens), whole), isa
    monkeypatch.delenv("STROP_ISA")
    monkeypatch.setenv("STROP_THREADS", "1")
    assert np.array_equal(logits_of(native(tmp_path / "packed"), tokens), whole)


def test_upper_planes_alone_are_a_model_of_four_bits(packed: Packed, tmp_path: Path) -> None:
    nested = packed("llama", "bfp8n")
    stored = load_file(nested / "model.safetensors")
    codes = {name: part[: len(part) // 2] for name, part in stored.items() if "_codes" in name}
    config = json.loads((nested / "config.json").read_text())["quantization_config"]
    config["formats"] = {"bfp4": describe(FORMATS["bfp4"])}
    for tensor in config["tensors"].values():
        tensor["format"] = "bfp4"
    apart = changed(nested, tmp_path, {"quantization_config": config}, **codes)
    alone = logits_of(native(nested, upper=True))
    assert np.array_equal(alone, logits_of(native(apart)))
    assert np.array_equal(alone, logits_of(native(nested, upper=True, resident=False)))
    assert not np.array_equal(alone, logits_of(native(nested)))


def test_only_nested_formats_have_upper_planes(packed: Packed) -> None:
    with pytest.raises(StropError, match="no weights in a nested format"):
        native(packed("llama", "bfp5"), upper=True)
