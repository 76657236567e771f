"""What the native backend says of itself, needs of the machine, and refuses."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tests.models.packed_models import RUN, TOKENS, Packed, changed, logits_of, native

from strop import _native
from strop.blockfp import FORMATS, Scale, quantize
from strop.blockfp.tensor import layout
from strop.errors import StropError
from strop.models import load, machine, native_backend, pack
from strop.models.native_backend import KV_FORMATS, NativeModel
from strop.models.torch_backend import TorchModel


def test_what_a_model_says_of_itself(packed: Packed) -> None:
    directory = packed("qwen2")
    ours, theirs = load(str(directory)), load(str(directory), backend="torch")
    assert isinstance(ours, NativeModel)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.config == theirs.config
    assert (ours.vocabulary, ours.context_length) == (theirs.vocabulary, theirs.context_length)
    assert (ours.name, ours.directory) == (str(directory), directory)


def test_packed_models_run_natively_and_others_on_torch(tiny_model: Path, packed: Packed) -> None:
    assert isinstance(load(str(packed())), NativeModel)
    assert isinstance(load(str(tiny_model)), TorchModel)
    assert isinstance(load(str(packed()), backend="torch"), TorchModel)
    with pytest.raises(StropError, match=r"strop pack .* -o DIRECTORY, or use the torch backend"):
        load(str(tiny_model), backend="native")
    with pytest.raises(StropError, match=r"unknown format of keys and values 'fp15'.*'fp16'"):
        load(str(packed()), kv="fp15")
    with pytest.raises(StropError, match="only the native backend"):
        load(str(tiny_model), kv="bfp8")


def test_sessions_are_bounded(packed: Packed) -> None:
    model = native(packed())
    session = model.session()
    session.forward([1] * 127, last=0)
    with pytest.raises(StropError, match=r"129 tokens do not fit into the context of tiny \(128\)"):
        session.forward([1, 1])
    for token in (-1, 271, 2**40, 1.5):
        with pytest.raises(StropError, match="whole numbers from 0 to 270"):
            session.forward([token])
    assert session.length == 127
    assert session.forward([]).shape == (0, 271)
    assert session.forward([1]).shape == (1, 271)


def test_a_context_beyond_any_memory_fails_in_one_line(packed: Packed, tmp_path: Path) -> None:
    program = (
        "import resource, sys; from strop.models import load\n"
        "from strop.errors import StropFailure\n"
        "model = load(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "try:\n    model.session()\n"
        "except StropFailure as error:\n    print(error)\n"
    )
    directory = changed(packed(), tmp_path, {"max_position_embeddings": 2**24})
    run = subprocess.run(
        [sys.executable, "-c", program, str(directory)], capture_output=True, text=True, check=True
    )
    assert "no room for the keys and values of 16777216 tokens" in run.stdout


def test_a_cache_of_eight_bits_is_smaller(packed: Packed) -> None:
    sizes = []
    for kv in KV_FORMATS:
        session = native(packed(), kv=kv).session()
        session.forward(TOKENS, last=0)
        sizes.append(session.cache.nbytes)
    assert 0 < sizes[1] < 0.7 * sizes[0]


def test_memory_is_given_back(packed: Packed) -> None:
    directory = str(packed())

    def use() -> int:  # bytes that are mapped afterwards
        for _ in range(8):
            model = load(directory)
            for _ in range(16):  # some 100 kB each
                model.session().forward([1, 2, 3])
        del model
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    use()  # the first time, libraries take memory of their own
    before = use()
    assert use() < before + 2**22


def test_weights_that_do_not_fit_stay_in_the_file(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = logits_of(native(packed()))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(native_backend, "available_memory", lambda: 50_000)
    assert np.array_equal(logits_of(native(packed())), expected)
    assert "do not fit into the memory that is available (50.0 kB)" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "257", "²", "9" * 5000])
def test_bad_thread_counts(value: str, packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_THREADS", value)
    with pytest.raises(StropError, match=r"STROP_THREADS=.*: must be a whole number from 1 to 256"):
        native(packed())


def test_a_forked_process_computes_alone_and_ends(packed: Packed) -> None:
    program = (
        "import os, sys; import numpy as np; from strop.models import load\n"
        "model = load(sys.argv[1])\n"
        "wanted = model.session().forward(range(40))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sys.exit(not np.array_equal(model.session().forward(range(40)), wanted))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(packed())],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"STROP_THREADS": "4"},
    )
    assert run.stdout == "0\n"


def test_threads_that_cannot_be_started_are_done_without(packed: Packed) -> None:
    program = (
        "import os, resource, sys; import numpy as np; from pathlib import Path\n"
        "from strop import _native; from strop.blockfp import FORMATS, quantize\n"
        "from strop.blockfp.tensor import layout\n"
        "from strop.models import load\n"
        "os.environ['STROP_THREADS'] = '1'\n"
        "wanted = load(sys.argv[1]).session().forward(range(40))\n"
        "os.environ['STROP_THREADS'] = '200'\n"
        "values = np.random.default_rng(0).standard_normal((2048, 1024), np.float32)\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "limit = used + 2**29\n"  # less than the stack of a thread
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "assert np.array_equal(load(sys.argv[1]).session().forward(range(40)), wanted)\n"
        "tensor = quantize(values, FORMATS['bfp5'])\n"
        "parts = layout(tensor.format), tensor.codes, tensor.scales\n"
        "_native.quantize(parts[0], 0, False, values, 1.0, *parts[1:], 64)\n"
        "_native.Matrix(*parts, 1.0, 1024, True, 64)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(packed())],
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (2**30, 2**30)),
    )


def test_memory_is_known_before_it_is_taken() -> None:
    for name in RUN:
        format = FORMATS[name]
        tensor = quantize(np.ones((37, 70), np.float32), format)
        parts = tensor.codes, tensor.scales, float(tensor.tensor_scale)
        matrix = _native.Matrix(layout(format), *parts, 70, True, 1)
        assert matrix.nbytes == native_backend.tiled_bytes(format, 37, 70), name


def test_memory_is_limited_by_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "control_groups", lambda: [tmp_path])
    for name, text in {
        "max": "5000",
        "current": "4000",
        "stat": "anon 1\ninactive_file 300",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert machine.available_memory() == 1300


def test_an_unknown_instruction_set(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STROP_ISA", "mmx")
    with pytest.raises(StropError, match=r"STROP_ISA=mmx: choose from .*scalar"):
        native(packed())


def test_generating_imports_neither_torch_nor_transformers(packed: Packed) -> None:
    program = (
        "import sys\n"
        "from strop.cli import main\n"
        "sys.argv = ['strop', 'generate', sys.argv[1], 'Hello', '--max-tokens', '5', '--json']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'gguf', 'huggingface_hub', 'matplotlib', 'rich'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(packed())], capture_output=True, text=True, check=True
    )
    completion, modules = run.stdout.splitlines()
    assert len(json.loads(completion)["tokens"]) == 5
    assert modules == "[]"


# ---- Hostile files ------------------------------------------------------------------------------


QUERY = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "models of type 'gpt2', only .*: use the torch backend"),
        ({"num_hidden_layers": 3}, r"13 tensors are missing, such as model\.layers\.2"),
        ({"intermediate_size": 64}, r"mlp\.\w+_proj\.weight is \(.*\), config.json asks for \("),
        ({"vocab_size": 270}, r"embed_tokens\.weight is \(271, 80\), config.json asks for \(270"),
        ({"num_attention_heads": 2}, r"q_proj\.weight is \(64, 80\), config.json asks for \(32"),
        ({"hidden_size": None}, "hidden_size must be a whole number"),
        ({"tie_word_embeddings": None, "attention_bias": "x"}, "attention_bias must be true"),
        ({"max_position_embeddings": 0}, "max_position_embeddings must be a whole number"),
    ],
)
def test_configs_that_do_not_fit(
    config: dict[str, Any], message: str, packed: Packed, tmp_path: Path
) -> None:
    with pytest.raises(StropError, match=message) as caught:
        native(changed(packed(), tmp_path, config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (NORM, None, f"1 tensors are missing, such as {NORM}"),
        (NORM, np.ones(79, np.float32), rf"model\.safetensors: {NORM} is \(79,\), config"),
        (NORM, np.ones((80, 1), np.float32), rf"{NORM} is \(80, 1\), config"),
        (NORM, np.ones(80, np.int32), f"{NORM} is in I32, which the engine cannot run"),
        (NORM, np.full(80, np.nan, np.float32), f"{NORM} holds NaN or infinity"),
        (f"{QUERY}_codes", None, f"no tensor named {QUERY}_codes"),
        (f"{QUERY}_codes", np.zeros((64, 49), np.uint8), f"{QUERY}_codes is U8"),
        (f"{QUERY}_codes", np.zeros((63, 50), np.uint8), f"{QUERY}_(codes|scales) is U8"),
        (f"{QUERY}_scales", np.zeros((64, 2), np.uint8), f"{QUERY}_scales is U8"),
        (f"{QUERY}_scales", np.full((64, 3), 255, np.uint8), rf"model\.safetensors: {QUERY} .*NaN"),
        (
            f"{QUERY}_tensor_scale",
            np.array(np.nan, np.float32),
            f"{QUERY} has the tensor scale nan",
        ),
        (
            f"{QUERY}_tensor_scale",
            np.array(np.inf, np.float32),
            f"{QUERY} has the tensor scale inf",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    name: str, value: np.ndarray | None, message: str, packed: Packed, tmp_path: Path
) -> None:
    with pytest.raises(StropError, match=message):
        native(changed(packed(), tmp_path, **{name: value}))


@pytest.mark.parametrize("format", RUN)
def test_numbers_that_are_none_are_found_in_memory_and_in_the_file(
    format: str, packed: Packed, tmp_path: Path
) -> None:
    row = FORMATS[format]
    part, value = ("scales", 255)
    if row.scale is Scale.UE4M3:
        value = 127
    stored = load_file(packed("llama", format) / "model.safetensors")[f"{QUERY}_{part}"].copy()
    stored[-1, -1] = value
    directory = changed(packed("llama", format), tmp_path, **{f"{QUERY}_{part}": stored})
    with pytest.raises(StropError, match=rf"model\.safetensors: {QUERY} .*NaN"):
        native(directory, resident=True)
    streamed = native(directory, resident=False)
    session = streamed.session()
    with pytest.raises(StropError, match="not numbers"):
        session.forward(TOKENS)
    assert session.length == 0


def test_unpacked_parts_are_named(packed: Packed, tmp_path: Path) -> None:
    plain = packed().parent / "plain"
    pack(str(plain), "bfp5", tmp_path / "kept", {"*.1.*.down_proj.weight": "keep"})
    message = r"model\.safetensors: model\.layers\.1\.mlp\.down_proj\.weight is in F32, .*torch"
    with pytest.raises(StropError, match=message):
        native(tmp_path / "kept")
    pack(str(plain), "bfp5", tmp_path / "micro", {"*.1.*.down_proj.weight": "mx6"})
    with pytest.raises(StropError, match=r"down_proj\.weight is in mx6, .*--backend torch"):
        native(tmp_path / "micro")
    assert load(str(tmp_path / "micro"), backend="torch").session().forward([1]).shape == (1, 271)


def test_a_head_in_the_file_counts_whatever_the_config_says(
    packed: Packed, tmp_path: Path, one_thread: None
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(packed("qwen3").parent / "plain", plain)
    assert json.loads((plain / "config.json").read_text())["tie_word_embeddings"]
    tensors = load_file(plain / "model.safetensors")
    shape = tensors["model.embed_tokens.weight"].shape
    tensors["lm_head.weight"] = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    pack(str(plain), "bfp8", tmp_path / "packed")
    expected = load(str(plain)).session().forward(TOKENS)
    tied = load(str(packed("qwen3").parent / "plain")).session().forward(TOKENS)
    for backend in ("native", "torch"):
        logits = load(str(tmp_path / "packed"), backend).session().forward(TOKENS)
        assert np.abs(logits - expected).mean() < 0.1 * expected.std()
        assert np.abs(logits - tied).mean() > 0.5 * expected.std()


def test_what_is_not_used_is_said(
    packed: Packed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = changed(packed(), tmp_path, extra=np.zeros(3, np.float32))
    assert np.array_equal(logits_of(native(directory)), logits_of(native(packed())))
    assert "1 tensors are not used, such as extra" in capsys.readouterr().err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_gives_a_model_or_one_line(
    data: st.DataObject, packed: Packed, place: Path
) -> None:
    source = packed("qwen3", data.draw(st.sampled_from(["bfp5", "nvfp4", "mxint8"])))
    raw = bytearray((source / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(raw[:8], "little")
    first, end = data.draw(st.sampled_from([(0, header), (header, len(raw))]))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(first, end - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.just(len(raw)) | st.integers(0, len(raw))) :]
    shutil.rmtree(place / "model", ignore_errors=True)
    shutil.copytree(source, place / "model")
    (place / "model" / "model.safetensors").write_bytes(raw)
    with contextlib.suppress(StropError):
        model = native(place / "model", resident=data.draw(st.booleans()))
        assert model.session().forward([1, 2, 3]).shape == (3, 271)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_sizes_give_a_model_or_one_line(
    data: st.DataObject, packed: Packed, place: Path
) -> None:
    keys = ["hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"]
    keys += ["head_dim", "vocab_size", "num_hidden_layers", "max_position_embeddings"]
    keys += ["sliding_window", "max_window_layers"]
    config = data.draw(
        st.dictionaries(st.sampled_from(keys), st.integers(0, 2**26) | st.integers(1, 200))
    )
    shutil.rmtree(place / "model", ignore_errors=True)
    with contextlib.suppress(StropError):
        model = native(changed(packed("qwen3"), place, config))
        assert model.session().forward([1, 2, 3]).shape == (3, 271)
