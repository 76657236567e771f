"""What is written as GGUF comes back the same: through our reader, and through transformers'."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tests.models.packed_models import FAMILIES, changed
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

import strop.models
from strop.data import read_json, write_json
from strop.errors import StropError
from strop.models import open_checkpoint, pack, unpack
from strop.models.convert import convert_gguf
from strop.models.gguf_file import GGUFFile
from strop.models.gguf_tokenizer import LLAMA3, QWEN2, TEKKEN
from strop.models.gguf_writer import write_gguf

TOKENS = torch.tensor([[3, 50, 7, 200, 8, 9, 100, 41, 3, 3, 77]])
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("1", "2"), ("i", "n"), ("in", "g"), ("Ċ", "Ċ")]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
TEXTS = [
    "",
    "the thing, 12 things; I'LL go: it's 1234567",
    "  two  spaces\n\n\nlines\r\n\ttabs \t ",
    "naïve café Ωμέγα ÅÅ e\u0301tude 日本語 हिन्दी १२३ 😀 ½ x²",
    "<|im_start|>user\nhi<|im_end|>\nx<|endoftext|> <tool>the</tool>",
]

#: name in GGUF -> normalizer and steps, as in the tokenizer.json of models that use the rule
RULES: dict[str, tuple[Any, list[Any]]] = {
    "gpt-2": (None, []),
    "smollm": (None, [pre_tokenizers.Digits(individual_digits=True)]),
    "llama-bpe": (None, [pre_tokenizers.Split(Regex(LLAMA3), "isolated")]),
    "tekken": (None, [pre_tokenizers.Split(Regex(TEKKEN), "isolated")]),
    "qwen2": (normalizers.NFC(), [pre_tokenizers.Split(Regex(QWEN2), "isolated")]),
}

Edit = Callable[[dict[str, Any]], None]
Build = Callable[..., Any]


def save_tokenizer(directory: Path, rule: str = "smollm", edit: Edit | None = None) -> None:
    """Write a byte-level tokenizer; `edit` changes its tokenizer.json."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *alphabet, *map("".join, MERGES)]
    whole = rule in ("llama-bpe", "tekken")
    vocabulary = {token: index for index, token in enumerate(words)}
    backend = Tokenizer(models.BPE(vocabulary, MERGES, ignore_merges=whole))
    normalizer, steps = RULES[rule]
    if normalizer is not None:
        backend.normalizer = normalizer
    last = pre_tokenizers.ByteLevel(
        add_prefix_space=False,
        use_regex=not any(isinstance(one, pre_tokenizers.Split) for one in steps),
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, last]) if steps else last
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(one, normalized=False) for one in SPECIAL])
    backend.add_tokens([AddedToken(one, normalized=False) for one in ("<tool>", "</tool>")])
    if rule == "llama-bpe":
        backend.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=["<|im_start|>", "$A"], special_tokens=[("<|im_start|>", 1)]
                ),
            ]
        )
    rules = json.loads(backend.to_str())
    if edit is not None:
        edit(rules)
    write_json(directory / "tokenizer.json", rules)
    write_json(
        directory / "tokenizer_config.json",
        {
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|im_end|>",
            "chat_template": TEMPLATE,
        },
    )


def save(directory: Path, network: Any, rule: str = "smollm", edit: Edit | None = None) -> Path:
    network.save_pretrained(directory)
    save_tokenizer(directory, rule, edit)
    return directory


def written(directory: Path, kind: str = "F16") -> Path:
    path = directory.with_suffix(".gguf")
    write_gguf(directory, path, kind, "tiny")
    return path


def read_back(path: Path) -> Path:
    directory = path.parent / "back"
    directory.mkdir()
    convert_gguf(path, directory)
    return directory


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    """What a type makes of values, by the gguf library; vectors stay as they are."""
    if values.ndim == 1:
        return values
    type = gguf.GGMLQuantizationType[kind]
    return gguf.quants.dequantize(gguf.quants.quantize(values, type), type)


def logits(directory: Path, **options: Any) -> torch.Tensor:
    network = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, **options
    )
    with torch.no_grad():
        return network.eval()(TOKENS).logits


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": False}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    *(("llama", {"rope_parameters": {"rope_theta": 5000.0, **rope}}) for rope in ROPES.values()),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {}),
    ("qwen3", {"tie_word_embeddings": False}),
    ("smollm3", {"num_hidden_layers": 4}),  # the fourth has no rotary embedding
]


@pytest.mark.parametrize(("architecture", "changes"), MODELS)
@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_a_model_comes_back_rounded_and_no_more(
    kind: str,
    architecture: str,
    changes: dict[str, Any],
    tmp_path: Path,
    build_network: Build,
) -> None:
    network = build_network(architecture, **changes)
    source = save(tmp_path / "model", network)
    back = read_back(written(source, kind))
    checkpoint, state = open_checkpoint(back), network.state_dict()
    assert set(checkpoint.names) == set(open_checkpoint(source).names)
    for name in checkpoint.names:
        expected = rounded(state[name].numpy(), kind)
        assert np.array_equal(checkpoint.read(name), expected), name
        state[name] = torch.from_numpy(expected)
    network.load_state_dict(state)
    with torch.no_grad():
        wanted = network(TOKENS).logits
    torch.testing.assert_close(logits(back), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # of qwen3 it ignores the head size
def test_transformers_reads_the_same_model(
    architecture: str, tmp_path: Path, build_network: Build
) -> None:
    source = save(tmp_path / "model", build_network(architecture))
    path = written(source)
    theirs = logits(tmp_path, gguf_file=path.name)
    torch.testing.assert_close(theirs, logits(read_back(path)), rtol=0, atol=1e-4)
    torch.testing.assert_close(theirs, logits(source), rtol=0, atol=0.05)


@pytest.mark.parametrize("rule", RULES)
def test_a_tokenizer_comes_back(rule: str, tmp_path: Path, tiny_network: Any) -> None:
    source = save(tmp_path / "model", tiny_network, rule)
    path = written(source)
    assert GGUFFile(path).metadata["tokenizer.ggml.pre"] == rule
    ours = strop.models.Tokenizer.from_directory(source)
    back = strop.models.Tokenizer.from_directory(read_back(path))
    for text in TEXTS:
        assert back.encode(text) == ours.encode(text), text
        ids = ours.encode(text, special=False)
        assert back.encode(text, special=False) == ids
        for special in (False, True):
            assert back.decode(ids, special) == ours.decode(ids, special)
    assert (back.tokens, back.template) == (ours.tokens, ours.template)
    assert back.end_ids == ours.end_ids
    assert (back.encode("")[:1] == [1]) == (rule == "llama-bpe")


def test_a_model_without_merges_and_with_rows_to_spare(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(tiny_model, path, "Q8_0", "tiny")
    back = read_back(path)
    tokenizer = strop.models.Tokenizer.from_directory(back)
    text = "any text: 12\n"
    assert tokenizer.encode(text) == strop.models.Tokenizer.from_directory(tiny_model).encode(text)
    assert read_json(back / "config.json")["vocab_size"] == 264
    assert GGUFFile(path).metadata["tokenizer.ggml.tokens"][-1] == "[PAD263]"
    assert GGUFFile(path).metadata["tokenizer.ggml.merges"] == []


def test_two_ends_are_kept_and_a_third_is_named(
    tmp_path: Path, tiny_network: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "model", tiny_network)
    write_json(source / "generation_config.json", {"eos_token_id": [0, 2]})
    back = read_back(written(source))
    assert strop.models.Tokenizer.from_directory(back).end_ids == {0, 2}
    assert "left out" not in capsys.readouterr().err
    write_json(source / "generation_config.json", {"eos_token_id": [0, 1, 2]})
    written(source)
    assert "left out <|im_start|>" in capsys.readouterr().err


def test_a_packed_model_is_written_as_its_plain_one(tiny_model: Path, tmp_path: Path) -> None:
    pack(str(tiny_model), "bfp6", tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "plain")
    for name in ("packed", "plain"):
        write_gguf(tmp_path / name, tmp_path / f"{name}.gguf", "F16", "tiny")
    packed, plain = (tmp_path / f"{name}.gguf" for name in ("packed", "plain"))
    assert packed.read_bytes() == plain.read_bytes()


def test_rows_that_are_no_whole_blocks_become_f16(
    tmp_path: Path, build_network: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "model", build_network("llama", intermediate_size=100))
    tensors = GGUFFile(written(source, "Q8_0")).tensors
    assert tensors["blk.0.ffn_down.weight"].kind == "F16"
    assert tensors["blk.0.ffn_up.weight"].kind == "Q8_0"
    assert "blk.0.ffn_down.weight, blk.1.ffn_down.weight" in capsys.readouterr().err


REFUSED_CONFIGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "another type": ("llama", {"model_type": "gemma"}, "models of type 'gemma', only llama, qwen2"),
    "activation": ("llama", {"hidden_act": "gelu"}, "the activation 'gelu'"),
    "window": ("mistral", {"sliding_window": 5}, "a sliding window"),
    "windows": ("qwen3", FAMILIES["qwen3"], "a sliding window"),
    "no rope": ("smollm3", {"no_rope_layers": [0, 1]}, "layers without rotary embedding"),
    "dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic"}}, "of type 'dynamic'"),
    "llama3": ("llama", {"rope_scaling": ROPES["llama3"] | {"low_freq_factor": 2.0}}, "other fac"),
    "yarn": ("llama", {"rope_scaling": ROPES["yarn"] | {"attention_factor": 2.0}}, "YaRN with att"),
    "quantized": ("llama", {"quantization_config": {"quant_method": "gptq"}}, "is quantized"),
    "sizes": ("llama", {"intermediate_size": 32}, r"is \(96, 64\), config.json asks for \(32, 64"),
}


@pytest.mark.parametrize("case", REFUSED_CONFIGS)
def test_what_gguf_cannot_say_is_refused(case: str, tmp_path: Path, build_network: Build) -> None:
    architecture, changes, reason = REFUSED_CONFIGS[case]
    source = save(tmp_path / "model", build_network(architecture))
    config = read_json(source / "config.json")
    config.pop("layer_types", None)
    write_json(source / "config.json", config | changes)
    with pytest.raises(StropError, match=rf"^{source}.*{reason}") as caught:
        written(source)
    assert caught.value.exit_code == 2


def with_model(**changes: Any) -> Edit:
    def edit(rules: dict[str, Any]) -> None:
        rules["model"] |= changes

    return edit


def with_rules(**changes: Any) -> Edit:
    def edit(rules: dict[str, Any]) -> None:
        rules |= changes

    return edit


def without_a_byte(rules: dict[str, Any]) -> None:
    rules["model"]["unk_token"] = "<|endoftext|>"
    rules["model"]["vocab"]["qq"] = rules["model"]["vocab"].pop("q")


def with_strip(rules: dict[str, Any]) -> None:
    rules["added_tokens"][0]["lstrip"] = True


METASPACE = {
    "type": "Metaspace",
    "replacement": "▁",
    "prepend_scheme": "first",
    "split": False,
}
REFUSED_TOKENIZERS: dict[str, tuple[Edit, str]] = {
    "sentencepiece": (with_rules(decoder=None, pre_tokenizer=METASPACE), "not byte-level BPE"),
    "byte fallback": (with_model(byte_fallback=True), "not byte-level BPE"),
    "another rule": (with_rules(pre_tokenizer={"type": "Whitespace"}), "rule for words has no"),
    "lower case": (with_rules(normalizer={"type": "Lowercase"}), "rule for words has no name"),
    "whole words": (with_model(ignore_merges=True), "rule for words has no name"),
    "a byte short": (without_a_byte, "unknown token for bytes"),
    "stripping": (with_strip, r"'<\|endoftext\|>' takes in what is around it"),
}


@pytest.mark.parametrize("case", REFUSED_TOKENIZERS)
def test_other_tokenizers_are_refused(case: str, tmp_path: Path, tiny_network: Any) -> None:
    edit, reason = REFUSED_TOKENIZERS[case]
    source = save(tmp_path / "model", tiny_network, edit=edit)
    with pytest.raises(StropError, match=rf"^{source}: its tokenizer cannot be .*{reason}"):
        written(source)


def test_more_tokens_than_rows(tmp_path: Path, build_network: Build) -> None:
    source = save(tmp_path / "model", build_network("llama", vocab_size=260))
    with pytest.raises(StropError, match="268 tokens, but 260 embedding rows"):
        written(source)


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "NaN"), (1e5, "above 65504")])
def test_values_that_do_not_fit(
    value: float, reason: str, tmp_path: Path, tiny_network: Any
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    source = save(tmp_path / "model", tiny_network)
    matrix = open_checkpoint(source).read(name)
    matrix[3, 5] = value
    with pytest.raises(StropError, match=f"{name} holds .*{reason}"):
        written(changed(source, tmp_path / "changed", **{name: matrix}))


def test_a_tensor_without_a_name_and_one_that_is_missing(tmp_path: Path, tiny_network: Any) -> None:
    source = save(tmp_path / "model", tiny_network)
    extra = changed(source, tmp_path / "extra", **{"model.layers.0.gate": np.ones(3, np.float32)})
    with pytest.raises(StropError, match=r"no name for, such as model\.layers\.0\.gate"):
        written(extra)
    missing = changed(source, tmp_path / "missing", **{"model.norm.weight": None})
    with pytest.raises(StropError, match=r"no tensor named model\.norm\.weight"):
        written(missing)
