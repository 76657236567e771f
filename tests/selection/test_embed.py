"""Embeddings of examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strop.decoding import encode_prompt
from strop.models import load, pack
from strop.models.interface import Model
from strop.selection import embed as embedding
from strop.selection.embed import embed

TEXTS = [("Say hello", "Hello!"), ("Add 1 and 2", "It is 3. " * 40), ("x" * 700, "too long")]


@pytest.fixture(scope="module", params=["native", "torch"])
def model(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    place = tmp_path_factory.mktemp("packed") / "tiny"
    pack(str(tiny_model), "bfp8", place)
    return load(str(place), request.param)


def test_it_is_the_weighted_mean_of_all_states(model: Model, tmp_path: Path) -> None:
    found = embed(model, TEXTS, tmp_path)
    assert found.shape == (3, 64)
    for row, (prompt, answer) in zip(found, TEXTS, strict=True):
        ids = encode_prompt(model.tokenizer, prompt)
        ids = (ids + model.tokenizer.encode(answer, special=False))[: model.context_length]
        session = model.session()
        session.forward(ids)
        assert session.states is not None
        wanted = np.average(session.states, axis=0, weights=np.arange(1, len(ids) + 1))
        np.testing.assert_allclose(row, wanted, atol=1e-4)


def test_what_is_kept_is_not_computed_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "LOT", 2)
    wanted = embed(model, TEXTS, tmp_path)
    monkeypatch.setattr(embedding, "pooled", None)
    assert np.array_equal(embed(model, TEXTS, tmp_path), wanted)
