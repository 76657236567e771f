"""Corpora: what is in which part, and what cannot be one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from strop.data import read_rows
from strop.data.documents import Domains, Source
from strop.errors import StropError
from strop.models import Tokenizer
from strop.training.corpus import PARTS, Corpus, open_corpus

WORDS = [
    "red",
    "green",
    "blue",
    "one",
    "two",
    "three",
    "up",
    "down",
    "left",
    "right",
    "over",
    "under",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_CACHE", str(tmp_path / "cache"))


def write(path: Path, count: int, seed: int, words: int = 40) -> Source:
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, words)) for _ in range(count)]
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    return Source(path=str(path))


def documents(corpus: Corpus, name: str, part: str) -> list[str]:
    tokenizer = Tokenizer.from_directory(corpus.tokenizer)
    tokens = corpus.tokens(name, part)
    assert tokens[-1] == 0  # the end of a document
    return [
        tokenizer.decode(one.tolist())
        for one in np.split(tokens, np.flatnonzero(tokens == 0) + 1)[:-1]
    ]


def test_every_document_is_in_one_part(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", 60, 0)
    other = write(tmp_path / "b.jsonl", 30, 1)
    corpus = open_corpus(Domains({"a": source, "b": other}, tokenizer="300"))
    wanted = [row["text"] for row in read_rows(tmp_path / "a.jsonl")]
    parts = {part: documents(corpus, "a", part) for part in PARTS}
    assert sorted(one for own in parts.values() for one in own) == sorted(wanted)
    assert all(len(own) in (2, 3) for own in (parts["validation"], parts["test"]))
    sizes = [corpus.facts["domains"]["a"]["tokens"][part] for part in PARTS[:2]]
    assert abs(sizes[0] - sizes[1]) < 0.1 * sizes[0]
    assert corpus.sizes[0] == sum(sizes)
    assert corpus.vocabulary == 300
    numbers, lengths = np.unique(corpus.documents("a", "test"), return_counts=True)
    tokenizer = Tokenizer.from_directory(corpus.tokenizer)
    assert numbers.tolist() == list(range(len(parts["test"])))
    assert lengths.tolist() == [len(tokenizer.encode(one)) + 1 for one in parts["test"]]
    assert open_corpus(Domains({"a": source, "b": other}, tokenizer="300")) == corpus


def test_what_the_target_has_is_not_trained_on(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", 60, 0)
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    (tmp_path / "t.jsonl").write_text("\n".join(lines[:10]))
    target = Source(path=str(tmp_path / "t.jsonl"))
    corpus = open_corpus(Domains({"a": source}, target, "byte"))
    assert corpus.facts["domains"]["a"]["repeated"] == 10
    held = {text for part in PARTS[2:] for text in documents(corpus, "target", part)}
    assert held == {json.loads(line)["text"] for line in lines[:10]}
    trained = {text for part in PARTS for text in documents(corpus, "a", part)}
    assert not held & trained
    assert corpus.vocabulary == 257


def test_few_documents_and_only_repetitions_are_one_line(tmp_path: Path) -> None:
    three = write(tmp_path / "three.jsonl", 3, 0)
    with pytest.raises(StropError, match="domain b: has 3 different documents, at least 4"):
        open_corpus(Domains({"a": write(tmp_path / "a.jsonl", 9, 1), "b": three}, tokenizer="byte"))
    with pytest.raises(StropError, match="domain b only repeats others: 3 documents are in a"):
        open_corpus(Domains({"a": write(tmp_path / "a.jsonl", 9, 0), "b": three}, tokenizer="byte"))
    with pytest.raises(StropError, match="cannot be called target"):
        open_corpus(Domains({"target": three}))
    with pytest.raises(StropError, match="at least 257 tokens, not 100,"):
        open_corpus(Domains({"a": write(tmp_path / "a.jsonl", 9, 0)}, tokenizer="100"))


def test_four_documents_are_enough_and_one_may_be_most_of_all(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", 4, 0)
    corpus = open_corpus(Domains({"a": source}, tokenizer="byte"))
    assert [len(documents(corpus, "a", part)) for part in PARTS] == [1, 1, 1, 1]
    rows = [*read_rows(tmp_path / "a.jsonl"), {"text": " ".join(f"w{n}" for n in range(9999))}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = open_corpus(Domains({"b": Source(path=str(tmp_path / "b.jsonl"))}, tokenizer="byte"))
    held = [corpus.facts["domains"]["b"]["tokens"][part] for part in PARTS[2:]]
    assert max(held) < 5000  # the long one is trained on


def test_a_model_brings_its_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", 9, 0)
    corpus = open_corpus(Domains({"a": source}, tokenizer=str(tiny_model)))
    assert (corpus.tokenizer / "tokenizer.json").read_bytes() == (
        tiny_model / "tokenizer.json"
    ).read_bytes()
    assert corpus.tokens("a", "first")[-1] == 2  # its end of a turn


def test_what_two_domains_share_belongs_to_the_first(tmp_path: Path) -> None:
    """Whatever was made and kept before for the other order."""
    rows = {}
    for seed, name in enumerate(("shared", "one", "two")):
        write(tmp_path / f"{name}.jsonl", 20, seed)
        rows[name] = (tmp_path / f"{name}.jsonl").read_text()
    sources = {}
    for name in ("one", "two"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(rows[name] + rows["shared"])
        sources[name] = Source(path=str(path))
    for names in (("one", "two"), ("two", "one")):
        own = {name: sources[name] for name in names}
        corpus = open_corpus(Domains(own, tokenizer="byte"))
        assert corpus.names == names
        repeated = [corpus.facts["domains"][name]["repeated"] for name in names]
        assert repeated == [0, 20]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b"])
def test_names_that_cannot_be_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(StropError, match="a domain cannot be called"):
        open_corpus(Domains({name: write(tmp_path / "a.jsonl", 9, 0)}, tokenizer="byte"))


@pytest.mark.parametrize("tokenizer", ["99999999999999999999", "²"])
def test_numbers_that_are_none(tmp_path: Path, tokenizer: str) -> None:
    with pytest.raises(StropError):
        open_corpus(Domains({"a": write(tmp_path / "a.jsonl", 9, 0)}, tokenizer=tokenizer))
