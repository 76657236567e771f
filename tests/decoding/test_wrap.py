"""Generating with a transformers model that is in memory."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models

import strop
from strop.decoding import GREEDY, complete, planner_for
from strop.errors import StropError


def test_a_transformers_model_in_memory(tiny_model: Path) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    model = strop.wrap(network, tokenizer)
    loaded = strop.load(str(tiny_model), "torch")
    assert model.tokenizer.end_ids == loaded.tokenizer.end_ids
    assert model.fingerprint == strop.wrap(network, tokenizer).fingerprint
    prompt = [5, 6, 7, 5, 6]
    expected = complete(loaded, prompt, GREEDY)
    planner = planner_for(model, "lookup")
    assert complete(model, prompt, GREEDY, planner=planner).tokens == expected.tokens


def test_a_model_in_training_stays_so(tiny_model: Path) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_model).train()
    network.model.layers[0].eval()
    before = [module.training for module in network.modules()]
    model = strop.wrap(network, transformers.AutoTokenizer.from_pretrained(tiny_model))
    session = model.session()
    session.forward([5, 6], last=1)
    assert [module.training for module in network.modules()] == before
    assert session.states.shape == (1, network.config.hidden_size)


def test_a_model_that_calls_its_context_otherwise() -> None:
    sizes = {"n_positions": 48, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = transformers.GPT2Config(vocab_size=300, eos_token_id=1, **sizes)
    network = transformers.GPT2LMHeadModel(config)
    network.generation_config.eos_token_id = torch.tensor([7, 8])
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    model = strop.wrap(network, tokenizer)
    assert model.context_length == 48
    assert model.tokenizer.end_ids == {7, 8}
    assert complete(model, [5] * 46, GREEDY).finish_reason in ("context", "end")
    with pytest.raises(StropError, match="GPT2Model writes no text"):
        strop.wrap(network.transformer, tokenizer)
    with pytest.raises(StropError, match="SimpleNamespace is a slow tokenizer"):
        strop.wrap(network, SimpleNamespace(is_fast=False))
    config = transformers.BloomConfig(vocab_size=300, hidden_size=16, n_layer=1, n_head=2)
    with pytest.raises(StropError, match="BloomForCausalLM: no max_position_embeddings"):
        strop.wrap(transformers.BloomForCausalLM(config), tokenizer)
