"""Predicted memory of training: against what autograd keeps, by hand, and of a process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.training.networks import SIZES, grouped

from strop.errors import StropError, StropFailure
from strop.models.architecture import Architecture
from strop.models.memory import ModelFacts, packed_as, read_facts
from strop.models.trial import in_fresh_process
from strop.training import fitting
from strop.training.fitting import Setting, Speeds, choose, most_groups, step_seconds
from strop.training.lora import add_lora
from strop.training.memory import (
    ROOM,
    Lengths,
    attention_kept,
    head,
    kept,
    trained_weights,
    tuning_peak,
)
from strop.training.network import NetworkConfig, open_trainee
from strop.training.scoring import token_logps
from strop.training.sequences import Group, lay_out

LENGTHS = Lengths(prompt=12, completion=5, completions=3, groups=2)
SLOW = Speeds({"float32": 1e10, "bfloat16": 1e9}, 1e9)
GIGABYTE = 10**9


@pytest.fixture
def facts(tiny_model: Path) -> ModelFacts:
    return read_facts(tiny_model)


def network_of(kind: str, layers: int, setting: Setting) -> Any:
    """Return a network in training, of so many layers."""
    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }
    config, network = kinds[kind]
    sizes = SIZES | {"num_hidden_layers": layers, "head_dim": 16, "tie_word_embeddings": True}
    made = grouped(network(config(**sizes)).to(getattr(torch, setting.dtype)))
    if setting.rank:
        add_lora(made, setting.rank, 16.0)
    return made


def kept_bytes(network: Any, lengths: Lengths) -> int:
    """Return the bytes that autograd keeps of a forward pass, without weights."""
    weights = [*network.parameters(), *network.buffers()]
    known = {one.untyped_storage().data_ptr() for one in weights}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage
        return tensor

    tokens = (7,) * lengths.prompt, (9,) * lengths.completion
    group = Group(tokens[0], (tokens[1],) * lengths.completions)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = token_logps(network, lay_out([group] * lengths.groups))
    assert result.requires_grad
    return sum(one.nbytes() for one in found.values())


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("llama", Setting()),
        ("llama", Setting(rank=3, dtype="bfloat16")),
        ("llama", Setting(rank=0)),
        ("qwen3", Setting()),
        ("qwen3", Setting(rank=0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [LENGTHS, Lengths(9, 4, 1, 1)], ids=str)
def test_a_layer_keeps_what_is_predicted_to_the_byte(
    kind: str, setting: Setting, lengths: Lengths
) -> None:
    """The difference of three layers and two is a layer."""
    two, three = (network_of(kind, layers, setting) for layers in (2, 3))
    a = Architecture.parse(three.config.to_dict(), "test")
    found = kept_bytes(three, lengths) - kept_bytes(two, lengths)
    assert found == kept(a, setting, lengths) + attention_kept(a, setting, lengths)


def test_parts_by_hand(facts: ModelFacts) -> None:
    a = facts.architecture
    assert (a.hidden, a.inner, a.heads, a.kv_heads, a.head_dim) == (64, 128, 4, 2, 16)
    lengths = Lengths(prompt=10, completion=5, completions=2, groups=3)
    assert (lengths.group, lengths.tokens, lengths.scored, lengths.longest) == (20, 60, 30, 15)
    # Two norms (input and a root), their results, the MLP, and A x of seven matrices.
    assert kept(a, Setting(), lengths) == 60 * 4 * (2 * 65 + 2 * 64 + 4 * 128 + 7 * 8)
    # Queries and what came out of four heads, keys and values of two.
    assert attention_kept(a, Setting(), lengths) == 60 * 4 * (2 * 64 + 2 * 32)
    rows = a.vocabulary
    assert head(facts, Setting(), lengths) == 30 * rows * 8 + 30 * 64 * 4
    packed = packed_as(facts, "bfp8")
    assert head(packed, Setting(), lengths) == 30 * rows * 8 + 30 * 64 * 4 + rows * 64 * 4


@pytest.mark.parametrize("rank", [0, 3])
def test_weights_are_counted_as_the_network_has_them(tiny_model: Path, rank: int) -> None:
    facts = read_facts(tiny_model)
    parameters = list(open_trainee(str(tiny_model), NetworkConfig(rank=rank)).network.parameters())
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    assert trained_weights(facts, rank) == trained
    assert facts.weights == sum(one.numel() for one in parameters) - (trained if rank else 0)


def test_more_takes_more_and_checkpointing_less(facts: ModelFacts) -> None:
    long = Lengths(150, 60, 2, 4)
    plain = tuning_peak(facts, Setting(), long).total
    for change in ({"prompt": 200}, {"completion": 90}, {"completions": 3}, {"groups": 5}):
        assert tuning_peak(facts, Setting(), replace(long, **change)).total > plain
    assert tuning_peak(facts, Setting(rank=64), long).total > plain
    assert tuning_peak(facts, Setting(checkpointing=True), long).total < plain
    assert tuning_peak(facts, Setting(dtype="bfloat16"), long).total < plain
    assert (
        tuning_peak(packed_as(facts, "bfp8"), Setting(), long).parts["weights"] < 4 * facts.weights
    )


def test_what_cannot_be_trained_is_refused(facts: ModelFacts) -> None:
    with pytest.raises(StropError, match="packed weights are trained with a rank"):
        tuning_peak(packed_as(facts, "bfp8"), Setting(rank=0), LENGTHS)
    with pytest.raises(StropError, match="in float32 only"):
        tuning_peak(facts, Setting(rank=0, dtype="bfloat16"), LENGTHS)
    with pytest.raises(StropError, match="600 tokens of prompt and completion do not fit"):
        tuning_peak(facts, Setting(), Lengths(prompt=550, completion=50))
    with pytest.raises(StropError, match="completions must be at least 1, not 0"):
        Lengths(completions=0)


def test_as_many_prompts_at_a_time_as_fit(facts: ModelFacts) -> None:
    lengths = Lengths(100, 50, 2, 32)
    most, _ = most_groups(facts, Setting(), lengths, 100 * GIGABYTE, ROOM)
    assert most.tokens == 1000  # the largest multiple of 200 within ROOM
    room = tuning_peak(facts, Setting(), replace(lengths, groups=3)).total
    fewer, peak = most_groups(facts, Setting(), lengths, room, ROOM)
    assert (fewer.groups, peak.total) == (3, room)
    assert most_groups(facts, Setting(), lengths, 1, ROOM)[0].groups == 1


def test_the_fastest_that_fits_is_chosen(
    facts: ModelFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = Lengths(300, 100, 2, 1)
    monkeypatch.setattr(fitting, "probed", lambda facts: SLOW)
    choice = choose(facts, lengths, 100 * GIGABYTE)
    assert choice.network == NetworkConfig(dtype="float32", checkpointing=False)
    assert choice.room == lengths.tokens
    assert "bfloat16 would take 10 times as long here" in choice.reason
    tight = tuning_peak(facts, Setting(checkpointing=True), lengths).total
    choice = choose(facts, lengths, tight)
    assert choice.network == NetworkConfig(dtype="float32", checkpointing=True)
    assert choice.peak.total == tight
    assert "without checkpointing" in choice.reason
    monkeypatch.setattr(fitting, "probed", lambda facts: Speeds({"float32": 1, "bfloat16": 2}, 1))
    assert choose(facts, lengths, 100 * GIGABYTE).network.dtype == "bfloat16"


def test_what_is_given_is_not_chosen(facts: ModelFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "probed", lambda facts: SLOW)
    given = {"dtype": "bfloat16", "checkpointing": True, "rank": 4, "alpha": 2.0}
    assert choose(facts, LENGTHS, GIGABYTE, given).network == NetworkConfig(**given)
    assert choose(facts, LENGTHS, GIGABYTE, {"rank": 0}).network.rank == 0
    with pytest.raises(StropError, match="unknown dtype"):
        choose(facts, LENGTHS, GIGABYTE, {"dtype": "float8"})


def test_what_fits_in_no_setting_says_what_is_needed(
    facts: ModelFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "probed", lambda facts: SLOW)
    with pytest.raises(StropFailure, match=r"into 0\.00 GB in no setting: the smallest needs"):
        choose(facts, LENGTHS, 1000)


def test_time_follows_the_passes(facts: ModelFacts) -> None:
    seconds = [
        step_seconds(facts, setting, LENGTHS, SLOW)
        for setting in (Setting(), Setting(checkpointing=True), Setting(dtype="bfloat16"))
    ]
    assert seconds[0] < seconds[1] < 1.5 * seconds[0]
    assert seconds[2] == pytest.approx(10 * seconds[0])
    assert step_seconds(packed_as(facts, "bfp8"), Setting(), LENGTHS, SLOW) > seconds[0]


def test_a_probe_measures_something(facts: ModelFacts) -> None:
    speeds = fitting.probed(facts)
    assert speeds is not None
    assert min(*speeds.products.values(), speeds.dequantized) > 0


def test_a_process_takes_about_what_is_predicted(facts: ModelFacts, tiny_model: Path) -> None:
    lengths = Lengths(200, 100, 2, 2)
    found = in_fresh_process(
        "strop.training.trial",
        {"model": str(tiny_model), "rank": 8, "dtype": "float32", "checkpointing": False}
        | vars(lengths),
    )
    assert tuning_peak(facts, Setting(), lengths).total == pytest.approx(
        found["peak_bytes"], rel=0.35
    )


def test_a_prediction_imports_no_pytorch() -> None:
    code = (
        "import sys, strop.training.fitting, strop.training.memory, strop.models.fitting\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
