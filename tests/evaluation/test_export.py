"""Exports say what their source says, and one that does not is not kept."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import strop
from strop.blockfp import dequantize
from strop.data import read_json
from strop.errors import StropError, StropFailure
from strop.evaluation import ExportReport, export
from strop.models import is_packed, open_checkpoint, pack, resolve
from strop.models.gguf_file import GGUFFile
from strop.models.torch_backend import load_network
from strop.training.lora import adapters, add_lora, save_adapter

KINDS = ("merged", "packed", "gguf-f16", "gguf-q8_0", "adapter")
PROMPTS = ["hello", "what is 12?"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STROP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """An adapter that changes the tiny model a good deal."""
    network = load_network(tiny_model, open_checkpoint(tiny_model).config)
    torch.manual_seed(0)
    add_lora(network, 4, 6.0)
    for layer in adapters(network).values():
        nn.init.normal_(layer.lora_B, std=0.1)
    directory = tmp_path / "adapter"
    directory.mkdir()
    save_adapter(network, str(tiny_model), directory)
    return directory


def target(directory: Path, kind: str) -> Path:
    return directory / ("out.gguf" if kind.startswith("gguf") else "out")


def run(model: Path, output: Path, kind: str, **options: Any) -> ExportReport:
    return export(str(model), output, kind, prompts=PROMPTS, tokens=12, **options)


def cached(directory: Path) -> list[str]:
    """Names of the models in the cache."""
    models = directory / "models"
    return [path.name for path in models.iterdir() if path.is_dir()] if models.exists() else []


@pytest.mark.parametrize("kind", KINDS[:4])
def test_each_kind_is_written_and_agrees(
    kind: str, tiny_model: Path, tmp_path: Path, own_cache: Path
) -> None:
    output = target(tmp_path / "new", kind)
    report = run(tiny_model, output, kind)
    assert report.within_limit
    assert (report.kind, report.prompts) == (kind, 2)
    assert 2 <= report.tokens <= 24
    assert 0 <= report.mean <= report.largest
    assert (report.largest == 0) == (kind == "merged")
    assert report.size > 10_000
    assert [path.name for path in output.parent.iterdir()] == [output.name]  # nothing beside it
    assert cached(own_cache) == []
    model = strop.load(str(output), "torch")
    text = "any text"
    assert model.tokenizer.encode(text) == strop.load(str(tiny_model)).tokenizer.encode(text)
    assert is_packed(model.config) == (kind == "packed")
    assert run(tiny_model, output, kind) == report  # what Strop wrote is replaced


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_exported_as_what_it_makes_of_its_base(
    kind: str, tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    output = target(tmp_path / "new", kind)
    report = run(adapter, output, kind)
    assert report.within_limit
    if kind == "adapter":
        assert sorted(path.name for path in output.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        assert resolve(str(output)) == resolve(str(adapter))
    name = "model.layers.1.mlp.down_proj.weight"
    found = open_checkpoint(resolve(str(output)))
    base, merged = (open_checkpoint(resolve(str(one))).read(name) for one in (tiny_model, adapter))
    if kind in ("merged", "adapter"):
        assert np.array_equal(found.read(name), merged)
    elif kind != "packed":
        assert np.abs(found.read(name) - merged).max() < 0.05 < np.abs(base - merged).max()


def test_a_packed_model_becomes_a_plain_one(tiny_model: Path, tmp_path: Path) -> None:
    pack(str(tiny_model), "bfp6", tmp_path / "packed")
    assert run(tmp_path / "packed", tmp_path / "out", "merged").largest == 0
    assert not is_packed(read_json(tmp_path / "out" / "config.json"))


def test_the_format_of_a_packed_model(tiny_model: Path, tmp_path: Path) -> None:
    eight = run(tiny_model, tmp_path / "out", "packed")
    assert open_checkpoint(tmp_path / "out").config["quantization_config"]["format"] == "bfp8"
    five = run(tiny_model, tmp_path / "out", "packed", format="bfp5")
    assert five.size < eight.size
    assert five.mean > eight.mean


Patch = Callable[[pytest.MonkeyPatch], None]


def unpermuted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("strop.models.gguf_writer.rotary_order", lambda rows, heads: np.arange(rows))


def half_scaled(patch: pytest.MonkeyPatch) -> None:
    def add_half(matrix: Any, scale: float, a: Any, b: Any) -> None:
        matrix += scale / 2 * (b @ a)

    patch.setattr("strop.models.merging.add_product", add_half)


def forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("strop.models.merging.add_product", lambda *_: None)


def reversed_rows(patch: pytest.MonkeyPatch) -> None:
    from strop.models.packing import quantize

    patch.setattr("strop.models.packing.quantize", lambda values, f: quantize(values[::-1], f))


def wrong_epsilon(patch: pytest.MonkeyPatch) -> None:
    from strop.models.gguf_writer import sizes

    key = "attention.layer_norm_rms_epsilon"
    patch.setattr("strop.models.gguf_writer.sizes", lambda c: sizes(c) | {key: 0.5})


def coarse(patch: pytest.MonkeyPatch) -> None:
    from strop.models.gguf_writer import encoded

    patch.setattr(
        "strop.models.gguf_writer.encoded",
        lambda plain, name, values, kind: encoded(plain, name, np.round(values, 1), kind),
    )


CONTROLS: list[tuple[str, Patch]] = [
    ("gguf-f16", unpermuted),
    ("gguf-q8_0", unpermuted),
    ("gguf-f16", wrong_epsilon),
    ("gguf-f16", coarse),
    ("merged", half_scaled),
    ("adapter", half_scaled),
    ("merged", forgotten),
    ("packed", reversed_rows),
]


@pytest.mark.parametrize(("kind", "damage"), CONTROLS)
def test_a_wrong_export_is_noticed_and_not_kept(
    kind: str, damage: Patch, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = target(tmp_path / "new", kind)
    damage(monkeypatch)
    with pytest.raises(
        StropFailure, match=rf"not kept, as it differs from .*{kind} explains$"
    ) as e:
        run(adapter, output, kind)
    assert e.value.exit_code == 1
    assert list(output.parent.iterdir()) == []


def test_what_was_there_stays_when_an_export_fails(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.gguf"
    run(tiny_model, output, "gguf-f16")
    before = output.read_bytes()
    unpermuted(monkeypatch)
    with pytest.raises(StropFailure):
        run(tiny_model, output, "gguf-q8_0")
    assert output.read_bytes() == before


def test_a_tokenizer_that_reads_otherwise_is_noticed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strop.models.gguf_vocabulary.rule_name", lambda *_: "qwen2")
    with pytest.raises(StropFailure, match="reads this prompt differently: e\u0301tude"):
        export(str(tiny_model), tmp_path / "o.gguf", "gguf-f16", prompts=["e\u0301tude"], tokens=3)
    assert not (tmp_path / "o.gguf").exists()


def test_logits_that_are_not_finite_are_a_failure(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(block: Any) -> Any:
        return dequantize(block) * np.float32(np.nan)

    pack(str(tiny_model), "bfp8", tmp_path / "packed")
    monkeypatch.setattr("strop.models.merging.dequantize", spoiled)
    with pytest.raises(StropFailure, match="its logits hold NaN or infinity"):
        run(tmp_path / "packed", tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()


def test_a_difference_that_is_no_number_is_not_within_the_limit() -> None:
    report = ExportReport("packed", 1, float("nan"), 0.0, 1.0, 3, 1)
    assert not report.within_limit
    assert dataclasses.replace(report, mean=0.1).within_limit


def test_only_what_is_ours_is_replaced(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(tiny_model, foreign)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "directory.gguf").mkdir()
    own = tmp_path / "own.gguf"
    run(tiny_model, own, "gguf-f16")
    cases: list[tuple[Path, Path, str, str]] = [
        (tiny_model, foreign, "merged", "which is not of a model that strop wrote"),
        (tiny_model, tiny_model, "merged", "would replace the source"),
        (tiny_model, tmp_path / "notes.txt", "packed", "is a file: name a directory"),
        (tiny_model, tmp_path / "notes.txt", "gguf-f16", r"name a file that ends in \.gguf"),
        (tiny_model, tmp_path / "directory.gguf", "gguf-f16", "is a directory: name a file"),
        (own, own, "gguf-q8_0", "would replace the source"),
        (adapter, adapter, "adapter", "would replace the source"),
        (adapter, tiny_model, "merged", "which is not of a model that strop wrote"),
        (adapter, foreign, "adapter", "is not empty"),
    ]
    before = own.read_bytes()
    for model, output, kind, reason in cases:
        with pytest.raises(StropError, match=reason) as caught:
            run(model, output, kind)
        assert caught.value.exit_code == 2
    assert own.read_bytes() == before
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_adapter_does_not_replace_its_base(adapter: Path, tmp_path: Path) -> None:
    run(adapter, tmp_path / "base", "merged")  # a directory that Strop wrote, and would replace
    config = adapter / "adapter_config.json"
    base = read_json(config)["base_model_name_or_path"]
    config.write_text(config.read_text().replace(base, str(tmp_path / "base")))
    with pytest.raises(StropError, match="would replace the source"):
        run(adapter, tmp_path / "base", "merged")


def test_what_cannot_be_exported(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(StropError, match="unknown kind of export 'gguf': did you mean 'gguf-f16'"):
        run(tiny_model, tmp_path / "out", "gguf")
    with pytest.raises(StropError, match="no adapter, so it cannot be exported as one"):
        run(tiny_model, tmp_path / "out", "adapter")
    with pytest.raises(StropError, match="at least one prompt"):
        export(str(tiny_model), tmp_path / "out", "merged", prompts=[])
    pack(str(tiny_model), "bfp8", tmp_path / "packed")
    with pytest.raises(StropError, match="is quantized already"):
        run(tmp_path / "packed", tmp_path / "out", "packed")
    assert not (tmp_path / "out").exists()


def test_a_gguf_file_is_exported_as_another(tiny_model: Path, tmp_path: Path) -> None:
    run(tiny_model, tmp_path / "one.gguf", "gguf-f16")
    run(tmp_path / "one.gguf", tmp_path / "two.gguf", "gguf-f16")
    one, two = (GGUFFile(tmp_path / f"{name}.gguf") for name in ("one", "two"))
    assert two.metadata["general.name"] == "one"
    # To a tokenizer a name of an unused row is a token like others.
    for key in ("general.name", "tokenizer.ggml.token_type"):
        del one.metadata[key], two.metadata[key]
    assert two.metadata == one.metadata
    for name, tensor in one.tensors.items():
        assert np.array_equal(one.rows(tensor), two.rows(two.tensors[name])), name
