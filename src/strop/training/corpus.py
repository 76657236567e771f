"""Domains as tokens: deduplicated, split by document, and packed end to end.

corpus.json           names, counts, and what was left out
tokenizer/            tokenizer.json and its configuration
NN-PART.npy           the tokens of a part of domain NN: first, second, validation, test
target-PART.npy       the same of the target, of which nothing is trained on
rejected.jsonl        documents that were left out, and why

`first` and `second` are the two halves of what is trained on, of different documents; on the
validation part mixtures are chosen, and on the test part they are judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

import strop
from strop.console import progress, say
from strop.data import (
    atomic_path,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
    write_rows,
)
from strop.data.documents import Domains, read_documents, read_domains
from strop.data.duplicates import repeated
from strop.errors import StropError
from strop.models import Tokenizer, resolve
from strop.models.cache import cache_directory, only_one
from strop.models.packing import copy_companions

PARTS = ("first", "second", "validation", "test")
TRAINED = PARTS[:2]
SHARES = {"validation": 0.05, "test": 0.05}  #: of the tokens of a domain, at most
TARGET = "target"
TAKEN = (TARGET, "loss", "n", "step", "kind", "rate", "norm")  #: as names, by what a run notes
END = "<|endoftext|>"  #: after each document, with a tokenizer of our own
SAMPLE = 2_000_000  #: characters of each domain that a tokenizer is trained on
LEAST = 257  #: tokens of a new tokenizer: all bytes, and the end of a document
MOST = 1 << 20  #: tokens of a new tokenizer

Tokens = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk."""

    directory: Path
    facts: dict[str, Any]  #: contents of corpus.json

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the domains."""
        return tuple(self.facts["domains"])

    @property
    def tokenizer(self) -> Path:
        """Return the directory of the tokenizer."""
        return self.directory / "tokenizer"

    @property
    def vocabulary(self) -> int:
        """Return the number of different tokens."""
        size: int = self.facts["vocabulary"]
        return size

    @property
    def has_target(self) -> bool:
        """Tell whether there is a target."""
        return self.facts["target"] is not None

    @property
    def sizes(self) -> list[int]:
        """Return the tokens of each domain that are trained on."""
        domains = self.facts["domains"].values()
        return [sum(one["tokens"][part] for part in TRAINED) for one in domains]

    def tokens(self, name: str, part: str) -> Tokens:
        """Map a part of a domain, or of the target, into memory."""
        stem = TARGET if name == TARGET else f"{self.names.index(name):02d}"
        found: Tokens = np.load(self.directory / f"{stem}-{part}.npy", mmap_mode="r")
        return found

    def documents(self, name: str, part: str) -> NDArray[np.int64]:
        """Return the number of the document that each token of a part belongs to."""
        end = end_of_document(Tokenizer.from_directory(self.tokenizer))
        ends = self.tokens(name, part) == end
        found: NDArray[np.int64] = np.cumsum(ends) - ends
        return found


def open_corpus(domains: Domains) -> Corpus:
    """Find the corpus of some domains in the cache, or make it.

    Raises StropError for a domain of too few documents to split, and one that only repeats others.
    """
    texts, rejected = read_all(domains)
    place = cache_directory() / "corpora" / digest_of(texts, domains.tokenizer)[:16]
    with only_one(place):
        if not (place / "corpus.json").exists():
            with atomic_path(place) as partial:
                partial.mkdir(parents=True)
                build(texts, rejected, domains.tokenizer, partial)
    return Corpus(place, read_json(place / "corpus.json"))


def domains_hash(path: Path) -> str:
    """Return a hash over a file of domains and all texts that it names."""
    domains = read_domains(path)
    return digest_of(read_all(domains)[0], domains.tokenizer)


def digest_of(texts: Mapping[str, Sequence[str]], tokenizer: str) -> str:
    """Return a hash over all that a corpus is made of."""
    if tokenizer != "byte" and not is_number(tokenizer):
        tokenizer = sha256_file(resolve(tokenizer) / "tokenizer.json")
    # In order: what two domains share is the first one's.
    known = [[name, sha256_json(own)] for name, own in texts.items()]
    return sha256_json({"texts": known, "tokenizer": tokenizer, "strop": strop.__version__})


def read_all(domains: Domains) -> tuple[dict[str, list[str]], list[dict[str, str]]]:
    """Return the texts of the target, if any, and of each domain; and what was left out."""
    sources = {TARGET: domains.target} if domains.target else {}
    for name in TAKEN:
        if name in domains.sources:
            raise StropError(f"a domain cannot be called {name}")
    for name in domains.sources:
        if not name.strip() or not name.isprintable():
            raise StropError(f"a domain cannot be called {name!r}")
    texts, rejected = {}, []
    for name, source in {**sources, **domains.sources}.items():
        found = read_documents(source)
        texts[name] = found.texts
        rejected += [{"domain": name, **one} for one in found.rejected]
    return texts, rejected


def is_number(text: str) -> bool:
    """Tell whether a tokenizer is named by its number of tokens."""
    return text.isascii() and text.isdigit()


def build(
    texts: Mapping[str, Sequence[str]],
    rejected: list[dict[str, str]],
    tokenizer: str,
    directory: Path,
) -> None:
    """Write a corpus into a directory."""
    kept, repeats = without_repeats(texts)
    write_tokenizer(tokenizer, kept, directory / "tokenizer")
    reader = Tokenizer.from_directory(directory / "tokenizer")
    end = end_of_document(reader)
    facts: dict[str, Any] = {"vocabulary": reader.size, "target": None, "domains": {}}
    for number, (name, own) in enumerate(one for one in kept.items() if one[0] != TARGET):
        documents = encoded(reader, own, end, name)
        parts = split(documents, name)
        facts["domains"][name] = written(parts, directory, f"{number:02d}", reader.size) | {
            "documents": len(own),
            "repeated": repeats[name],
            "rejected": sum(one["domain"] == name for one in rejected),
            "bytes": sum(len(text.encode()) for text in own),
        }
    if TARGET in kept:
        documents = encoded(reader, kept[TARGET], end, TARGET)
        halves = halved(documents, TARGET)
        parts = {"validation": halves[0], "test": halves[1]}
        facts["target"] = written(parts, directory, TARGET, reader.size)
    write_rows(directory / "rejected.jsonl", rejected)
    write_json(directory / "corpus.json", facts)
    for name, one in facts["domains"].items():
        counts = ", ".join(f"{one['tokens'][part]:,} {part}" for part in PARTS)
        left = f"{one['repeated']} repeated and {one['rejected']} without text left out"
        say(f"{name}: {one['documents']} documents ({left}), tokens: {counts}")


def without_repeats(
    texts: Mapping[str, Sequence[str]],
) -> tuple[dict[str, list[str]], Counter[str]]:
    """Drop documents that are nearly the same as one before them, the target's being the first."""
    owners = [name for name, own in texts.items() for _ in own]
    every = [text for own in texts.values() for text in own]
    kept: dict[str, list[str]] = {name: [] for name in texts}
    repeats: Counter[str] = Counter()
    others: dict[str, Counter[str]] = {name: Counter() for name in texts}
    for owner, text, earlier in zip(owners, every, repeated(every), strict=True):
        if earlier is None:
            kept[owner].append(text)
        else:
            repeats[owner] += 1
            others[owner][owners[earlier]] += 1
    for name, own in kept.items():
        if not own:
            [(other, count)] = others[name].most_common(1)
            raise StropError(f"domain {name} only repeats others: {count} documents are in {other}")
    return kept, repeats


def write_tokenizer(kind: str, texts: Mapping[str, Sequence[str]], directory: Path) -> None:
    """Write the tokenizer: of bytes, trained on as much of each domain, or that of a model.

    Raises StropError for a number of tokens that is too small.
    """
    if kind != "byte" and not is_number(kind):
        directory.mkdir(parents=True)
        copy_companions(resolve(kind), directory)
        return
    size = LEAST if kind == "byte" else int(kind)
    if not LEAST <= size <= MOST:
        raise StropError(
            f"a tokenizer needs at least {LEAST} tokens, not {size}, and {MOST} at most"
        )
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sampled(texts), trainer)
    directory.mkdir(parents=True)
    backend.save(str(directory / "tokenizer.json"))
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END)
    write_json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", **special},
    )


def sampled(texts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield documents of each domain, but not more than so many characters of any."""
    for name, own in texts.items():
        left = SAMPLE if name != TARGET else 0
        for text in own:
            if left <= 0:
                break
            yield text[:left]
            left -= len(text)


def end_of_document(tokenizer: Tokenizer) -> int:
    """Return the token that comes after each document."""
    name = tokenizer.tokens.get("eos_token")
    found = None if name is None else tokenizer.backend.token_to_id(name)
    if found is None:
        raise StropError("the tokenizer has no eos_token to put between documents")
    return int(found)


def encoded(tokenizer: Tokenizer, texts: Sequence[str], end: int, name: str) -> list[Tokens]:
    """Return the tokens of each document and its end; the order depends on the contents only."""
    found: list[Tokens] = []
    with progress(f"tokens of {name}", len(texts), "documents") as advance:
        for begin in range(0, len(texts), 64):
            lot = list(texts[begin : begin + 64])
            every = tokenizer.backend.encode_batch_fast(lot, add_special_tokens=False)
            found += [np.array([*one.ids, end], np.uint32) for one in every]
            advance(len(lot))
    order = sorted(range(len(texts)), key=lambda index: sha256_json(texts[index]))
    return [found[index] for index in order]


def split(documents: Sequence[Tokens], name: str) -> dict[str, list[Tokens]]:
    """Split documents of a domain into its parts."""
    left = list(documents)
    if len(left) < len(PARTS):
        raise StropError(
            f"domain {name}: has {len(left)} different documents, at least {len(PARTS)} are needed "
            "(two halves to train on, validation and test): cut long ones, or leave it out"
        )
    total = sum(map(len, left))
    parts = {}
    for reserve, part in ((3, "test"), (2, "validation")):
        # At most the share, or the shortest document, if all are longer.
        room = max(SHARES[part] * total, min(map(len, left)))
        chosen: list[Tokens] = []
        rest: list[Tokens] = []
        for place, one in enumerate(left):
            spare = len(rest) + len(left) - place - 1 >= reserve
            if len(one) <= room and spare:
                chosen.append(one)
                room -= len(one)
            else:
                rest.append(one)
        parts[part], left = chosen, rest
    parts["first"], parts["second"] = halved(left, name)
    return parts


def halved(documents: Sequence[Tokens], name: str) -> tuple[list[Tokens], list[Tokens]]:
    """Return two parts of about as many tokens, the longest documents first to the shorter part."""
    if len(documents) < 2:
        raise StropError(f"domain {name}: has one document, at least 2 are needed")
    halves: tuple[list[Tokens], list[Tokens]] = ([], [])
    sizes = [0, 0]
    for place in sorted(range(len(documents)), key=lambda index: -len(documents[index])):
        half = int(sizes[1] < sizes[0])
        halves[half].append(documents[place])
        sizes[half] += len(documents[place])
    return halves


def written(
    parts: Mapping[str, Sequence[Tokens]], directory: Path, stem: str, vocabulary: int
) -> dict[str, Any]:
    """Write parts end to end, and count their tokens."""
    width = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    for part, own in parts.items():
        np.save(directory / f"{stem}-{part}.npy", np.concatenate(own).astype(width))
    return {"tokens": {part: sum(map(len, own)) for part, own in parts.items()}}
