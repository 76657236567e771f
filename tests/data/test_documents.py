"""Documents of domains, from wherever they are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from strop.data.documents import Source, read_documents, read_domains
from strop.data.duplicates import repeated
from strop.errors import StropError


def domains(folder: Path, text: str) -> Path:
    path = folder / "domains.yaml"
    path.write_text(text)
    return path


def test_a_file_of_domains(tmp_path: Path) -> None:
    found = read_domains(
        domains(
            tmp_path,
            "domains:\n  news: news.jsonl\n  code: {package: email, files: '*.py'}\n"
            "  web: {dataset: a/b, subset: en, column: body}\ntarget: t.txt\ntokenizer: byte\n",
        )
    )
    assert list(found.sources) == ["news", "code", "web"]
    assert found.sources["news"].path == str(tmp_path / "news.jsonl")
    assert found.sources["code"] == Source(package="email", files="*.py")
    assert found.sources["web"] == Source(dataset="a/b", subset="en", column="body")
    assert found.target == Source(path=str(tmp_path / "t.txt"))
    assert found.tokenizer == "byte"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("domain: {}", "domains.yaml:1: unknown key 'domain': did you mean 'domains'"),
        ("domains: {}", "needs domains, each with a name"),
        ("tokenizer: 5", "needs domains, each with a name"),
        ("domains:\n  a: {pth: x}", "domains.yaml:2: unknown key 'pth': did you mean 'path'"),
        ("domains:\n  a: {path: x, package: y}", "2: needs a path, a package or a dataset"),
        ("domains:\n  a: {}", "needs a path, a package or a dataset"),
        ("domains:\n  a: 5", "must be a mapping"),
        ("domains:\n  a: x\n  a: y", "is given twice"),
        ("domains:\n  a: x\ntokenizer: 1.5", "must be a number of tokens, byte, or a model"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(StropError, match=said):
        read_domains(domains(tmp_path, text))


def test_rows_and_files(tmp_path: Path) -> None:
    rows = [json.dumps({"text": "one"}), "", "no JSON", json.dumps({"text": " "}), '["two"]']
    rows.append(json.dumps({"text": 5}))
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found = read_documents(Source(path=str(tmp_path / "a.jsonl")))
    assert found.texts == ["one"]
    reasons = [(one["where"].rpartition(":")[2], one["reason"]) for one in found.rejected]
    assert reasons == [("3", "no text"), ("4", "empty"), ("5", "no text"), ("6", "no text")]
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps({"body": "two"}).encode()))
    assert read_documents(Source(path=str(packed), column="body")).texts == ["two"]
    with pytest.raises(StropError, match="no column 'text': give column, one of body"):
        read_documents(Source(path=str(packed)))


def test_a_folder_is_read_in_one_order_and_what_is_no_text_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, content in (
        ("b.md", b"bee"),
        ("a.md", b"ay"),
        ("x.md", b"\xff\xfe"),
        ("c.txt", b"c"),
    ):
        (tmp_path / "deep" / name).write_bytes(content)
    found = read_documents(Source(path=str(tmp_path), files="**/*.md"))
    assert found.texts == ["ay", "bee"]
    assert [one["reason"] for one in found.rejected] == ["no text"]
    with pytest.raises(StropError, match="no documents"):
        read_documents(Source(path=str(tmp_path), files="*.rst"))


def test_a_package_is_its_folder() -> None:
    assert any("class Message" in text for text in read_documents(Source(package="email")).texts)
    for name in ("json.decoder", "no_such_package", "no.such", ".."):
        with pytest.raises(StropError, match="no installed package"):
            read_documents(Source(package=name))


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"body": ["one", None, "three"], "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = read_documents(Source(path=str(tmp_path / "a.parquet"), column="body"))
    assert found.texts == ["one", "three"]
    assert found.rejected == [{"where": f"{tmp_path / 'a.parquet'}: row 2", "reason": "no text"}]
    with pytest.raises(StropError, match="no column 'text'"):
        read_documents(Source(path=str(tmp_path / "a.parquet")))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(StropError, match="cannot read"):
        read_documents(Source(path=str(tmp_path / "b.parquet")))


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet", "a.txt", "a.txt.gz"):
        with pytest.raises(StropError, match="cannot read"):
            read_documents(Source(path=str(tmp_path / name)))


def test_repetitions_are_found_and_what_is_alike_only_in_part_is_kept() -> None:
    words = [f"word{number}" for number in range(100)]
    first = " ".join(words)
    nearly = " ".join([*words[:50], "other", *words[51:]])
    half = " ".join([*words[:50], *(f"new{number}" for number in range(50))])
    again = first.replace(" ", "\n")
    assert repeated([first, nearly, half, again, "short", "short", "shorter"]) == [
        None,
        0,
        None,
        0,
        None,
        4,
        None,
    ]
