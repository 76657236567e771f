"""Tasks of the kind perplexity, beside sums that are written out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluation.written_models import Written, using, write

from strop.data import read_rows
from strop.evaluation.check import log_probabilities
from strop.evaluation.evaluate import evaluate, spelled
from strop.evaluation.perplexity import split_text
from strop.evaluation.tasks import Task
from strop.lm import Failed
from strop.models import load

TEXTS = ["aaa b", "c d e f", "g", "h i j", "k l", "m n o p q r", "s t u", "v w x y z"]
TASK = """\
title: Texts
data: {path: texts.jsonl}
kind: perplexity
prompt: ""
answer: "{{ text }}"
"""


@pytest.fixture
def name(tmp_path: Path) -> str:
    (tmp_path / "texts.yaml").write_text(TASK)
    write(tmp_path / "texts.jsonl", [{"text": one} for one in TEXTS])
    return str(tmp_path / "texts.yaml")


def losses(every: float, **others: float) -> dict[str, Any]:
    """The log-probability of each word of the texts, and of some texts by their first letter."""
    return {one: -others.get(one[0], every) for one in TEXTS}


def test_sums_over_sums(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    using(monkeypatch, Written("m", losses(1.0, c=3.0)))
    facts = evaluate("m", [name], tmp_path / "out")
    figures = facts["tasks"]["texts"]["figures"]
    assert list(figures) == ["bits per byte", "loss per token"]
    total = 22 + 4 * 3  # nats: 26 words, of which 4 lost 3
    # A long row weighs more: the mean of rows would be 10/8.
    assert figures["loss per token"]["model"]["estimate"] == total / 26
    wanted = total / math.log(2) / sum(map(len, TEXTS))
    assert figures["bits per byte"]["model"]["estimate"] == pytest.approx(wanted)
    assert f"bits per byte          {wanted:.4f} [" in spelled(facts)
    assert "%" not in spelled(facts)
    sample = read_rows(tmp_path / "out" / "samples" / "texts.jsonl")[1]
    assert sample["loss per token"] == [12.0, 4]
    assert sample["bits per byte"] == pytest.approx([12.0 / math.log(2), 7])


def test_the_lower_one_is_better(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, Written("good", losses(1.0, a=1.1)), Written("bad", losses(2.0)))
    found = evaluate("good", [name], tmp_path / "good", against="bad")["tasks"]["texts"]
    assert found["figures"]["bits per byte"]["verdict"] == "better"
    for figure in found["figures"].values():
        assert figure["difference"]["high"] < 0
        assert figure["p"] == 2 / 2**8  # all 8 rows agree
    assert found["figures"]["bits per byte"]["p_holm"] == 2 / 2**8
    worse = evaluate("bad", [name], tmp_path / "bad", against="good")
    assert worse["tasks"]["texts"]["figures"]["bits per byte"]["verdict"] == "worse"
    assert ": worse  n = 8" in spelled(worse)
    assert "points" not in spelled(worse)
    # The control: of equal models it cannot be told.
    using(monkeypatch, Written("a", losses(2.0)), Written("b", losses(2.0)))
    same = evaluate("a", [name], tmp_path / "same", against="b")["tasks"]["texts"]["figures"]
    assert same["bits per byte"]["verdict"] == "cannot tell"
    assert same["bits per byte"]["p"] == 1.0


class Letters(Written):
    """A model whose tokens are letters."""

    def score(self, pairs: Any) -> Any:
        return super().score([(prompt, " ".join(text)) for prompt, text in pairs])


def test_losses_of_different_tokens_are_not_compared(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = {" ".join(one): -0.5 for one in TEXTS}
    using(monkeypatch, Written("words", losses(2.0)), Letters("letters", letters))
    facts = evaluate("words", [name], tmp_path / "out", against="letters")
    figures = facts["tasks"]["texts"]["figures"]
    assert figures["bits per byte"]["verdict"] == "worse"
    # Of a token "words" lost four times as much, of a byte not.
    tokens = figures["loss per token"]
    assert (tokens["model"]["estimate"], tokens["against"]["estimate"]) == (2.0, 0.5)
    assert tokens.keys() == {"model", "against", "stderr"}
    assert "2.0000 against 0.5000: of different tokens, which cannot be compared" in spelled(facts)


def test_what_does_not_fit_is_counted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    using(monkeypatch, Written("m", losses(1.0) | {TEXTS[5]: Failed("longer than the context")}))
    found = evaluate("m", [name], tmp_path / "out")["tasks"]["texts"]
    assert found["failed"] == [{"longer than the context": 1}]
    assert found["figures"]["bits per byte"]["model"]["n"] == 7


@pytest.mark.parametrize(
    ("prompt", "answer", "split"),
    [
        ("", "all of it", ("", "all of it")),
        ("Title: {{ title }}", "\n{{ text }}", ("Title: A", "\nsome text")),
        ("Title: {{ title }}\n ", "{{ text }}", ("Title: A", "\n some text")),
        ("{{ title }}", " {{ text }}", ("A", " some text")),
        ("  ", "{{ text }}", ("", "  some text")),
    ],
)
def test_what_is_read_and_what_counts(prompt: str, answer: str, split: tuple[str, str]) -> None:
    task = Task("t", "T", {}, "perplexity", prompt, answer)
    assert split_text(task, {"title": "A", "text": "some text"}) == split


def test_empty_texts_are_left_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "texts.jsonl", [{"text": one} for one in [*TEXTS, "", " \n"]])
    using(monkeypatch, Written("m", losses(1.0)))
    found = evaluate("m", [name], tmp_path / "out")["tasks"]["texts"]
    assert found["left_out"] == {"no text to predict": 2}
    assert found["rows"] == 8


def test_a_real_model_loses_what_its_logits_say(
    name: str, tmp_path: Path, tiny_model: Path, one_thread: None
) -> None:
    texts = ["Ünïcode ☂ text.", "Plain text, a little longer.", "x" * 600]
    write(tmp_path / "texts.jsonl", [{"text": one} for one in texts])
    found = evaluate(str(tiny_model), [name], tmp_path / "out")["tasks"]["texts"]
    assert found["chat"] == [False]
    assert found["failed"] == [{"longer than the context of 512 tokens": 1}]
    model = load(str(tiny_model))
    samples = read_rows(tmp_path / "out" / "samples" / "texts.jsonl")
    for text, sample in zip(texts[:2], samples, strict=False):
        ids = model.tokenizer.encode(text, special=False)
        start = [model.tokenizer.encode("<|im_start|>")[0]]
        logps = log_probabilities(model, [*start, *ids])
        total = -float(logps[np.arange(len(ids)), ids].sum(dtype=np.float64))
        assert sample["loss per token"] == pytest.approx([total, len(ids)], rel=1e-4)
        wanted = [total / math.log(2), len(text.encode())]
        assert sample["bits per byte"] == pytest.approx(wanted, rel=1e-4)
