"""From rows to tokens and items."""

from __future__ import annotations

from pathlib import Path

import pytest

from strop.data import Example, Preference
from strop.errors import StropError
from strop.models import Tokenizer
from strop.tuning.encode import answer_ids, end_id, prompt_ids
from strop.tuning.items import example_items, preference_items, split, with_others
from strop.tuning.losses import LOSSES

USER = {"role": "user", "content": "Hi"}


@pytest.fixture
def tokenizer(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_directory(tiny_model)


def test_answers_end_once_and_prompts_open_the_answer(tokenizer: Tokenizer) -> None:
    end = end_id(tokenizer)
    assert tokenizer.decode([end], special=True) == "<|im_end|>"
    for text in ("yes", "yes<|im_end|>", "yes<|im_end|><|im_end|>"):
        ids = answer_ids(tokenizer, text)
        assert ids[-1] == end
        assert ids.count(end) == 1
        assert tokenizer.decode(ids) == "yes"
    wanted = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(prompt_ids(tokenizer, "Hi"), special=True) == wanted
    assert prompt_ids(tokenizer, "Hi") == prompt_ids(tokenizer, (USER,))


def test_a_model_without_a_template_reads_messages_as_text(tokenizer: Tokenizer) -> None:
    tokenizer.template = None
    assert tokenizer.decode(prompt_ids(tokenizer, (USER,))) == "User: Hi\n\nAssistant:"
    assert tokenizer.decode(prompt_ids(tokenizer, "Hi")) == "Hi"


def test_a_tokenizer_without_an_end_is_refused(tokenizer: Tokenizer) -> None:
    tokenizer.template, tokenizer.end_ids = None, frozenset()
    del tokenizer.tokens["eos_token"]
    with pytest.raises(StropError, match="no token that ends a text"):
        end_id(tokenizer)


def test_too_long_rows_are_left_out(tokenizer: Tokenizer) -> None:
    rows = [Example("Hi", "yes"), Example("Hi" * 300, "yes"), Example("Hi", "yes" * 200)]
    items, rejected = example_items(rows, tokenizer, 512)
    assert len(items) == 1
    assert [(one.line, one.reason) for one in rejected] == [
        (2, "prompt longer than the context of 512 tokens"),
        (3, "prompt and answer longer than the context of 512 tokens"),
    ]


def test_pairs_of_one_prompt_become_one_item(tokenizer: Tokenizer) -> None:
    rows = [
        Preference("a", "1", "2"),
        Preference("b", "5", "6", "best"),
        Preference("a", "3", "1"),
        Preference("a", "3", "2"),
    ]
    items, rejected = preference_items(rows, tokenizer, 512, LOSSES["slic"])
    assert not rejected
    first, second = (item for _, item in items)
    texts = [tokenizer.decode(one) for one in first.candidates]
    assert [(texts[a], texts[b]) for a, b in first.pairs] == [("1", "2"), ("3", "1"), ("3", "2")]
    assert tokenizer.decode(first.target) == "3"  # what nothing is better than
    assert tokenizer.decode(second.target) == "best"
    assert len(first.group.completions) == 3  # each once, the target among them
    assert len(second.group.completions) == 3


def test_lists_are_in_the_order_of_their_values(tokenizer: Tokenizer) -> None:
    rows = [
        Preference("a", "1", "2", values=(0.5, 0.1)),
        Preference("a", "3", "1", values=(0.9, 0.5)),
    ]
    [(_, item)], _ = preference_items(rows, tokenizer, 512, LOSSES["slic-list"])
    assert [tokenizer.decode(one) for one in item.candidates] == ["3", "1", "2"]
    assert item.values == (0.9, 0.5, 0.1)
    bare = [Preference("a", "1", "2"), Preference("a", "3", "1")]
    with pytest.raises(StropError, match="needs the order of all answers"):
        preference_items(bare, tokenizer, 512, LOSSES["slic-list"])
    with pytest.raises(StropError, match="needs chosen_value"):
        preference_items(bare, tokenizer, 512, LOSSES["slic-margin"])
    preference_items(bare[:1], tokenizer, 512, LOSSES["slic-list"])  # the order of two is known


def test_tokens_that_a_model_wrote_are_taken_as_they_are(tokenizer: Tokenizer) -> None:
    written = (*tokenizer.encode("yes", special=False), 2), (*tokenizer.encode("no"), 2)
    row = Preference("a", "yes", "no", tokens=written)
    [(_, item)], _ = preference_items([row], tokenizer, 512, LOSSES["slic"])
    assert item.candidates == written
    for tokens in (((3, 2), written[1]), ((99999,), written[1])):
        foreign = Preference("a", "yes", "no", tokens=tokens)
        with pytest.raises(StropError, match="tokens of another model"):
            preference_items([foreign], tokenizer, 512, LOSSES["slic"])


def test_others_belong_to_other_prompts_and_fit(tokenizer: Tokenizer) -> None:
    names = ["a", "b", "b", "c" * 200]
    rows = [
        Preference(name, f"{name} yes {n}" * (40 if name == "b" else 1), f"{name} no", f"r{n}")
        for n, name in enumerate(names)
    ]
    items, _ = preference_items(rows, tokenizer, 512, LOSSES["kto"])
    assert len(items) == 4
    for key, item in with_others(items, 512):
        others = [one.candidates[0] for name, one in items if name != key]
        assert item.other in others
        assert len(item.prompt) + len(item.other) <= 512
    with pytest.raises(StropError, match="at least two prompts"):
        with_others(items[1:3], 512)


def test_with_values_the_target_is_the_best_answer(tokenizer: Tokenizer) -> None:
    """The winner of the first pair is not."""
    rows = [
        Preference("a", "1", "2", values=(0.5, 0.1)),
        Preference("a", "3", "4", values=(0.9, 0.3)),
    ]
    [(_, item)], _ = preference_items(rows, tokenizer, 512, LOSSES["best-of-n"])
    assert tokenizer.decode(item.target) == "3"


def test_a_target_that_the_model_wrote_is_taken_as_it_was(tokenizer: Tokenizer) -> None:
    """Text can be cut into tokens in several ways; the model's is not the tokenizer's."""
    end = end_id(tokenizer)
    whole = answer_ids(tokenizer, "the the")[:-1]
    single = tuple(
        token for letter in "the the" for token in tokenizer.encode(letter, special=False)
    )
    written = (*single, end)
    assert tokenizer.decode(written) == "the the"
    other = answer_ids(tokenizer, "no")
    row = Preference("a", "the the", "no", reference="the the", tokens=(written, other))
    for loss in ("best-of-n", "slic"):
        [(_, item)], _ = preference_items([row], tokenizer, 512, LOSSES[loss])
        assert item.target == written
    assert len(whole) <= len(single)


def test_a_split_keeps_prompts_together() -> None:
    items = [(f"key {number // 3}", number) for number in range(300)]
    train, held = split(items, 0.3, 0)
    assert {key for key, _ in train}.isdisjoint(key for key, _ in held)
    assert len(train) + len(held) == 300
    assert split(items, 0, 0) == (items, [])
    with pytest.raises(StropError, match="too few to hold out"):
        split(items[:3], 0.3, 0)
