"""Draft heads: arithmetic against NumPy and PyTorch, the same bits everywhere, damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.packed_models import Packed, native

from strop import _native
from strop.blockfp import dequantize
from strop.distillation.network import Head
from strop.errors import StropError
from strop.models.checkpoint import open_checkpoint
from strop.models.draft_head import MATRICES, is_draft_head, open_draft_head, write_draft_head
from strop.models.packed import packed_tensors, read_packed

TOKENS = np.array([3, 5, 8, 13, 21, 34, 40, 41, 42, 43, 44, 45, 46, 55, 89, 144, 233])


def weights_for(hidden: int, inner: int = 50, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)

    weights = {
        "fuse": matrix(hidden, 2 * hidden),
        "gate": matrix(inner, hidden),
        "up": matrix(inner, hidden),
        "down": matrix(hidden, inner),
        "head": matrix(len(TOKENS), hidden),
    }
    norms = ("token_norm", "state_norm", "mlp_norm", "final_norm")
    return weights | {
        name: (1 + 0.1 * random.standard_normal(hidden)).astype(np.float32) for name in norms
    }


@pytest.fixture
def model_directory(packed: Packed) -> Path:
    return packed("llama", "bfp8")


def written(directory: Path, hidden: int) -> Path:
    write_draft_head(directory / "head", weights_for(hidden), TOKENS, "bfp8", {"target": "tiny"})
    return directory / "head"


def test_it_computes_what_pytorch_does(model_directory: Path, tmp_path: Path) -> None:
    model = native(model_directory)
    directory = written(tmp_path, model.hidden)
    head = open_draft_head(directory, model)
    checkpoint = open_checkpoint(directory)
    packed = packed_tensors(str(directory), checkpoint.config["quantization_config"])
    weights = weights_for(model.hidden)
    weights |= {name: dequantize(read_packed(checkpoint, name, *packed[name])) for name in MATRICES}
    source = open_checkpoint(model_directory)
    tensors = packed_tensors(str(model_directory), source.config["quantization_config"])
    name = "model.embed_tokens.weight"
    embedding = dequantize(read_packed(source, name, *tensors[name]))
    reference = Head(
        torch.from_numpy(weights["head"]), torch.ones(model.hidden), 50,
        source.config["rms_norm_eps"],
    )  # fmt: skip
    reference.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    state = np.random.default_rng(1).standard_normal(model.hidden).astype(np.float32)
    other = torch.from_numpy(state)
    for token in (5, 200, 7):
        logits, state = head.step(token, state)
        with torch.no_grad():
            expected, other = reference(torch.from_numpy(embedding[token]), other)
        # Activations have eight bits.
        assert np.abs(logits - expected.numpy()).max() < 0.05 * np.abs(expected.numpy()).max()
        assert np.abs(state - other.numpy()).max() < 0.05 * np.abs(other.numpy()).max()
        other = torch.from_numpy(state.copy())


def test_every_instruction_set_and_thread_gives_the_same_bits(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for isa in _native.instruction_sets():
        for threads in ("1", "2"):
            monkeypatch.setenv("STROP_ISA", isa)
            monkeypatch.setenv("STROP_THREADS", threads)
            model = native(model_directory)
            directory = tmp_path / "head"
            if not directory.is_dir():
                written(tmp_path, model.hidden)
            head = open_draft_head(directory, model)
            logits, state = head.step(7, np.linspace(-2, 2, model.hidden, dtype=np.float32))
            again, _ = head.step(9, state)
            found.append(np.concatenate([logits, state, again]).tobytes())
    assert len(set(found)) == 1


def test_the_state_of_a_row_is_what_the_head_multiplies(model_directory: Path) -> None:
    model = native(model_directory)
    session = model.session()
    whole = session.forward([5, 6, 7, 8])
    states = session.states
    assert states is not None
    assert states.shape == (4, model.hidden)
    alone = model.session()
    for index, token in enumerate([5, 6, 7, 8]):
        row = alone.forward([token], last=1)
        assert alone.states is not None
        assert np.array_equal(alone.states[0], states[index])
        assert np.array_equal(row[0], whole[index])


def test_a_head_of_another_shape_is_refused(packed: Packed, tmp_path: Path) -> None:
    directory = written(tmp_path, 64)
    model = native(packed("llama", "bfp8"))  # of 80 numbers
    with pytest.raises(StropError, match="not made for tiny"):
        open_draft_head(directory, model)
    assert is_draft_head(directory)
    assert not is_draft_head(model.directory)
    assert not is_draft_head(tmp_path / "nothing")


def test_tokens_that_the_model_does_not_have(model_directory: Path, tmp_path: Path) -> None:
    model = native(model_directory)
    beyond, twice = TOKENS.copy(), TOKENS.copy()
    beyond[-1] = model.vocabulary
    twice[3] = twice[4]
    for tokens in (beyond, twice, TOKENS[::-1]):
        write_draft_head(tmp_path / "head", weights_for(model.hidden), tokens, "bfp8", {})
        with pytest.raises(StropError, match="its tokens are not some of tiny, ascending"):
            open_draft_head(tmp_path / "head", model)


def test_a_bad_token_or_state(model_directory: Path, tmp_path: Path) -> None:
    model = native(model_directory)
    head = open_draft_head(written(tmp_path, model.hidden), model)
    with pytest.raises(ValueError, match="no such token"):
        head.step(model.vocabulary, np.zeros(model.hidden, np.float32))
    with pytest.raises(ValueError, match="state"):
        head.step(1, np.zeros(model.hidden + 1, np.float32))
    logits, _ = head.step(1, np.full(model.hidden, np.nan, np.float32))
    assert np.isnan(logits).all()


def test_damaged_heads_are_refused_in_a_line(model_directory: Path, tmp_path: Path) -> None:
    model = native(model_directory)
    weights = weights_for(model.hidden)
    weights["mlp_norm"] = weights["mlp_norm"] * np.float32(np.nan)
    write_draft_head(tmp_path / "nan", weights, TOKENS, "bfp8", {})
    with pytest.raises(StropError, match="mlp_norm is not a vector of finite numbers"):
        open_draft_head(tmp_path / "nan", model)
    directory = written(tmp_path, model.hidden)
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(StropError, match="not that of a draft head"):
        open_draft_head(directory, model)
