import json
import shutil
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from strop.cli import main

TEXT = "It was the best of times, it was the worst of times. " * 20
SMALL = ["--tokens", "256", "--chunk", "32"]


@pytest.fixture(scope="module")
def noisy(tiny_model, tmp_path_factory):
    """The tiny model with noise on every matrix, which names no source."""
    directory = tmp_path_factory.mktemp("noisy") / "noisy"
    shutil.copytree(tiny_model, directory)
    rng = np.random.default_rng(0)
    tensors = load_file(directory / "model.safetensors")
    for name, value in tensors.items():
        if value.ndim == 2:
            tensors[name] = value + rng.normal(0, 0.05, value.shape).astype(np.float32)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["strop", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_prints_a_table_and_what_it_means(noisy, tiny_model, text, monkeypatch, capsys):
    code = run(monkeypatch, "check", noisy, "--against", tiny_model, "--text", text, *SMALL)
    out = capsys.readouterr().out
    assert code == 0
    for word in ("perplexity of", "difference (%)", "KL divergence", "same first choice", "95%"):
        assert word in out
    assert "n counts chunks of 32 tokens; 248 tokens scored" in " ".join(out.split())
    assert "on 8 chunks of 32 tokens." in out.splitlines()[-1]


def test_json_holds_the_same_result_each_time(noisy, tiny_model, text, monkeypatch, capsys):
    outputs = []
    for _ in range(2):
        arguments = ["check", noisy, "--against", tiny_model, "--text", text, *SMALL, "--json"]
        assert run(monkeypatch, *arguments) == 0
        outputs.append(json.loads(capsys.readouterr().out))
    assert outputs[0] == outputs[1]
    assert outputs[0]["kl"]["low"] > 0
    assert outputs[0]["kl"]["n"] == outputs[0]["chunks"] == 8


def test_a_model_against_itself_is_identical(tiny_model, text, monkeypatch, capsys):
    assert (
        run(monkeypatch, "check", tiny_model, "--against", tiny_model, "--text", text, *SMALL) == 0
    )
    assert (
        capsys.readouterr().out.splitlines()[-1].endswith("are identical on 8 chunks of 32 tokens.")
    )


def test_the_source_is_named_in_the_config_or_asked_for(
    noisy, tiny_model, text, tmp_path, monkeypatch, capsys
):
    from strop.cli.check import packed_from

    assert run(monkeypatch, "check", noisy, "--text", text, *SMALL) == 2
    assert "does not say what it was packed from: name it with --against" in capsys.readouterr().err
    config = {"quantization_config": {"source": "smollm2"}}
    assert packed_from(config, "packed") == "smollm2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the text is empty"),
        (b"abc \xff", "not UTF-8 text (byte 4)"),
        (b"too short", "the text has 9 tokens, too few for an interval"),
        (None, "cannot read"),
    ],
)
def test_bad_text_is_one_line_and_exit_code_2(
    content, message, tiny_model, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    assert run(monkeypatch, "check", tiny_model, "--against", tiny_model, "--text", path) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
