from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import strop
from strop.errors import StropError
from strop.models import Model, load

TOKENS = [3, 50, 7, 200, 8, 9, 100, 41, 3, 3, 77, 250]


def reference(directory: Path, tokens: list[int]) -> np.ndarray:
    network = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return network.eval()(torch.tensor([tokens])).logits[0].numpy()


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load(str(tiny_model))


@pytest.mark.parametrize("cuts", [[], [1], [5], [1, 2, 3], [11], [4, 8]])
def test_pieces_give_the_logits_of_the_whole(
    model: Model, tiny_model: Path, cuts: list[int]
) -> None:
    session = model.session()
    parts = np.split(np.array(TOKENS), cuts)
    logits = np.concatenate([session.forward(part.tolist()) for part in parts])
    assert logits.dtype == np.float32
    assert session.length == len(TOKENS)
    expected = reference(tiny_model, TOKENS)
    assert expected.std() > 0.1  # or closeness would say nothing
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kept", [0, 1, 5, 11, 12])
def test_after_a_rollback_it_is_as_if_nothing_had_been(model: Model, kept: int) -> None:
    session = model.session()
    session.forward(TOKENS)
    session.truncate(kept)
    assert session.length == kept
    again = session.forward([9, 8, 7])
    fresh = model.session().forward([*TOKENS[:kept], 9, 8, 7])
    np.testing.assert_allclose(again, fresh[kept:], atol=1e-4, rtol=0)
    # Negative control: another prefix gives other logits.
    other = model.session().forward([1] * kept + [9, 8, 7])[kept:]
    assert kept == 0 or np.abs(other - again).max() > 1e-2


def test_a_fork_goes_its_own_way(model: Model) -> None:
    session = model.session()
    session.forward(TOKENS[:5])
    other = session.fork()
    session.forward([9, 8, 7])
    assert other.length == 5
    fresh = model.session().forward(TOKENS)
    np.testing.assert_allclose(other.forward(TOKENS[5:]), fresh[5:], atol=1e-4, rtol=0)
    session.truncate(5)
    np.testing.assert_allclose(session.forward(TOKENS[5:]), fresh[5:], atol=1e-4, rtol=0)


def test_sessions_do_not_share_a_cache(model: Model) -> None:
    first, second = model.session(), model.session()
    first.forward(TOKENS)
    assert np.array_equal(second.forward(TOKENS), model.session().forward(TOKENS))


def test_rollback_goes_only_back(model: Model) -> None:
    session = model.session()
    session.forward([1, 2])
    for length in (3, -1):
        with pytest.raises(ValueError, match="cannot roll back"):
            session.truncate(length)


@pytest.mark.parametrize("last", [0, 1, 3, 12, 50])
def test_only_the_last_logits(model: Model, last: int) -> None:
    session = model.session()
    logits = session.forward(TOKENS, last=last)
    assert session.length == len(TOKENS)
    expected = model.session().forward(TOKENS)[max(0, len(TOKENS) - last) :]
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


def test_several_sessions_at_once(model: Model) -> None:
    sessions = [model.session() for _ in range(3)]
    sessions[1].forward(TOKENS[:4])
    pieces = [TOKENS[:2], TOKENS[4:9], []]
    for last in (None, 1):
        for session, kept in zip(sessions, (0, 4, 0), strict=True):
            session.truncate(kept)
        logits = model.forward(sessions, pieces, last)
        for session, kept, piece, rows in zip(sessions, (0, 4, 0), pieces, logits, strict=True):
            assert session.length == kept + len(piece)
            expected = model.session().forward(TOKENS[:kept] + piece)[kept:]
            expected = expected if last is None else expected[len(expected) - 1 :]
            np.testing.assert_allclose(rows, expected, atol=1e-4, rtol=0)


def test_a_batch_is_checked_before_any_session_grows(model: Model) -> None:
    first, second = model.session(), model.session()
    for tokens in ([5, 264], [1] * 513):
        with pytest.raises(StropError):
            model.forward([first, second], [[1], tokens])
    for sessions, tokens in (([first, first], [1, 2]), ([first], [1, 2])):
        with pytest.raises(ValueError, match=r"only once|zip"):
            model.forward(sessions, [[token] for token in tokens])
    with pytest.raises(ValueError, match="negative"):
        first.forward([1], last=-1)
    assert (first.length, second.length) == (0, 0)


def test_no_tokens_no_logits(model: Model) -> None:
    session = model.session()
    assert session.forward([]).shape == (0, session.forward([1]).shape[1])
    assert session.length == 1


def test_the_context_has_an_end(model: Model) -> None:
    session = model.session()
    session.forward([1] * (model.context_length - 1))
    with pytest.raises(StropError, match=r"513 tokens do not fit .*\(512\)"):
        session.forward([1, 1])
    assert session.length == model.context_length - 1
    assert session.forward([1]).shape[0] == 1


@pytest.mark.parametrize("token", [-1, 264])
def test_ids_outside_the_vocabulary(model: Model, token: int) -> None:
    with pytest.raises(StropError, match="from 0 to 263"):
        model.session().forward([1, token])


def test_an_interrupted_forward_can_be_repeated(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = model.session()
    session.forward(TOKENS[:4])

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model.network.model.layers[1], "forward", interrupt)  # the first has run
        with pytest.raises(KeyboardInterrupt):
            session.forward(TOKENS[4:])
    assert session.length == 4
    expected = model.session().forward(TOKENS)[4:]
    np.testing.assert_allclose(session.forward(TOKENS[4:]), expected, atol=1e-4, rtol=0)


def test_what_a_model_says_of_itself(model: Model, tiny_model: Path, tmp_path: Path) -> None:
    assert model.name == str(tiny_model)
    assert model.directory == tiny_model
    assert model.config["num_hidden_layers"] == 2
    assert model.context_length == 512
    assert model.tokenizer.size == 259
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    assert load(str(copy)).fingerprint == model.fingerprint
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert load(str(copy)).fingerprint != model.fingerprint


def change(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 3}, "9 tensors are missing, such as model.layers.2"),
        ({"hidden_size": 128}, r"20 tensors .* \(264, 64\) instead of \(264, 128\)"),
        ({"model_type": "no-such-type"}, "cannot load it"),
        ({"max_position_embeddings": None}, "no max_position_embeddings"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    changes: dict[str, Any], reason: str, tiny_model: Path, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    change(directory, **changes)
    with pytest.raises(StropError, match=reason) as caught:
        load(str(directory))
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StropError, match=r"model\.safetensors: truncated"):
        load(str(directory))


def test_an_unknown_backend(tiny_model: Path) -> None:
    with pytest.raises(StropError, match="unknown backend 'touch': did you mean 'torch'"):
        load(str(tiny_model), backend="touch")


def test_loading_is_quiet(tiny_model: Path) -> None:
    program = "import sys; from strop.models import load; load(sys.argv[1]).session().forward([1])"
    command = [sys.executable, "-c", program, str(tiny_model)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


def test_the_package_offers_load() -> None:
    assert strop.load is load
    assert strop.StropError is StropError
    assert strop.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        strop.lode  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import torch.none", r"importing torch and transformers failed: No module named 'torch.n"),
        ("import no_such_library", "failed: No module named 'no_such_library': install what it"),
        ("from os import nothing", "failed: cannot import name 'nothing' from 'os'"),
        ("raise OSError('libx.so:\\nno such file')", "failed: libx.so: no such file: install"),
        (None, "^this needs torch and transformers: install it with  pip install 'strop.torch]'"),
    ],
)
def test_why_torch_cannot_be_imported_is_said(
    code: str | None,
    message: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "strop.models.torch_backend", raising=False)
    if code is None:
        monkeypatch.setitem(sys.modules, "torch", None)
    else:
        (tmp_path / "torch.py").write_text(code)
        monkeypatch.delitem(sys.modules, "torch")
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StropError, match=message):
        load(str(tiny_model), backend="torch")


@pytest.mark.parametrize("module", ["strop", "strop.models"])
def test_imports_stay_light(module: str) -> None:
    program = (
        f"import {module}, sys;"
        "heavy = {'torch', 'transformers', 'matplotlib', 'gguf', 'huggingface_hub', 'jinja2'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"


def test_smollm2_knows_its_capitals(smollm2: Path) -> None:
    model = load("smollm2")
    assert model.directory == smollm2
    tokens = model.tokenizer.encode("The capital of France is")
    session = model.session()
    session.forward(tokens[:-1])
    logits = session.forward(tokens[-1:])
    assert logits.shape == (1, 49152)
    assert model.tokenizer.decode([int(logits[-1].argmax())]) == " Paris"
