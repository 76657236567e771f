"""Generating with a transformers model that is in memory."""

from pathlib import Path

import transformers

import strop
from strop.decoding import GREEDY, complete, planner_for


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
