"""Predicted memory of generation: against headers, the engine's own figures, and a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.models.packed_models import FAMILIES, changed, native

from strop import _native
from strop.errors import StropError, StropFailure
from strop.models import pack
from strop.models.checkpoint import open_checkpoint
from strop.models.fitting import FORMATS, options
from strop.models.memory import (
    Peak,
    gigabytes,
    largest,
    native_peak,
    native_token,
    nothing_fits,
    packed_as,
    read_facts,
    read_size,
    torch_peak,
)
from strop.models.trial import in_fresh_process

Packed = Callable[..., Path]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("3.5GiB", 7 * 2**29),
        ("800MB", 8 * 10**8),
        (" 1 TB ", 10**12),
        ("0.5MiB", 2**19),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "4", "GB", "4gb", "4G", "-1GB", "0GB", "1e3MB", "4 4GB", "٤GB", "nanGB", "4GBs"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(StropError, match="is not a size: write such as 4GB"):
        read_size(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_are_those_of_the_files(packed: Packed, family: str) -> None:
    directory = packed(family, "bfp5")
    plain, facts = read_facts(directory.parent / "plain"), read_facts(directory)
    sizes = [
        open_checkpoint(directory).entry(name).size for name in open_checkpoint(directory).names
    ]
    assert facts.stored == sum(sizes)
    assert facts.packed
    assert not plain.packed
    assert plain.weights == facts.weights
    assert plain.held("F32") == plain.stored == 4 * plain.weights
    assert plain.converted("BF16") == plain.stored
    assert plain.converted("F32") == facts.converted("F32") == 0
    assert packed_as(plain, "bfp5").stored == facts.stored
    assert packed_as(plain, "bfp5").head == facts.head


@pytest.mark.parametrize("kv", ["fp16", "bfp8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_values_take_what_the_engine_says(packed: Packed, family: str, kv: str) -> None:
    directory = packed(family, "bfp5")
    cache = _native.Cache(native(directory).engine, kv)
    a = read_facts(directory).architecture
    session = native(directory, kv=kv).session()
    session.forward([1, 2, 3])
    assert session.cache.nbytes == pytest.approx(3 * native_token(a, kv), rel=0.05)
    assert cache.length == 0


def test_the_peak_is_the_moment_with_most() -> None:
    moments = {"first": {"a": 3, "b": 0}, "second": {"a": 1, "b": 1}}
    assert largest(moments) == Peak("first", {"a": 3})
    assert gigabytes(1_234_567_890) == "1.23 GB"
    found = nothing_fits([Peak("x", {"a": 3 * 10**9}), Peak("x", {"a": 2 * 10**9})], 10**9)
    assert found == "fits into 1.00 GB in no setting: the smallest needs about 2.00 GB"


def test_the_file_counts_while_it_is_rearranged(tiny_model: Path) -> None:
    facts = packed_as(read_facts(tiny_model), "bfp8")
    peak = native_peak(facts, 1)
    assert peak.moment == "loading"
    assert peak.parts["file"] == facts.stored
    assert peak.parts["weights"] >= facts.stored - 100_000  # norms are few
    assert torch_peak(read_facts(tiny_model), 512).moment == "generating"


def test_more_context_takes_more(tiny_model: Path) -> None:
    facts = replace(read_facts(tiny_model))
    for kv in ("fp16", "bfp8"):
        packed = packed_as(facts, "bfp8")
        sizes = [native_peak(packed, context, kv).total for context in (1, 10_000, 100_000)]
        assert sizes == sorted(sizes)
    assert native_token(facts.architecture, "bfp8") < native_token(facts.architecture, "fp16")
    assert torch_peak(facts, 100).total < torch_peak(facts, 200).total


def test_ways_to_generate(tiny_model: Path, packed: Packed) -> None:
    facts = read_facts(tiny_model)
    found = options(facts, 100, 10**12, 1)
    assert [one.base for one in found[:-1:2]] == list(FORMATS)
    assert found[-1].backend == "torch"
    assert all(one.fits and one.tokens == 512 and one.seconds > 0 for one in found)
    budget = found[0].peak.total  # what loading takes: any context of this model fits into it
    fitting = options(facts, 100, budget, 1)
    assert [one.fits for one in fitting] == sorted((one.fits for one in fitting), reverse=True)
    assert not fitting[-1].fits
    assert fitting[-1].tokens == 0
    assert {one.base for one in options(read_facts(packed()), 10, 1, 1)} == {None}
    with pytest.raises(StropError, match="513 tokens are more than the context of 512"):
        options(facts, 513, 10**12, 1)


def test_the_longest_context_is_the_last_that_fits(tiny_model: Path) -> None:
    facts = read_facts(tiny_model)
    budget = torch_peak(facts, 300).total
    found = options(facts, 10, budget, 1)
    torch = next(one for one in found if one.backend == "torch")
    assert torch.tokens == 300


def test_unknown_families_and_other_shapes_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    other = changed(tiny_model, tmp_path / "other", {"model_type": "gpt2"})
    with pytest.raises(
        StropError, match=r"memory is predicted for llama, mistral, .* not for 'gpt2'"
    ):
        read_facts(other)
    wider = changed(tiny_model, tmp_path / "wider", {"intermediate_size": 96})
    with pytest.raises(StropError, match=r"is \(128, 64\), config.json asks for \(96, 64\)"):
        read_facts(wider)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_a_process_takes_about_what_is_predicted(
    tiny_model: Path, tmp_path: Path, backend: str
) -> None:
    model = tiny_model
    if backend == "native":
        model = tmp_path / "packed"
        pack(str(tiny_model), "bfp8", model)
    facts = read_facts(model)
    found = in_fresh_process(
        "strop.models.trial",
        {"model": str(model), "backend": backend, "kv": None, "context": 500},
    )
    peak = native_peak(facts, 500) if backend == "native" else torch_peak(facts, 500)
    assert peak.total == pytest.approx(found["peak_bytes"], rel=0.35)


def test_a_trial_that_fails_says_why(tiny_model: Path) -> None:
    settings = {"model": str(tiny_model), "backend": "native", "kv": None, "context": 10}
    with pytest.raises(StropFailure, match=r"the trial failed: .*the native engine runs packed"):
        in_fresh_process("strop.models.trial", settings)
