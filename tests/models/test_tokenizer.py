from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from strop.errors import StropError
from strop.models import Tokenizer

TEXTS = [
    "",
    "Hello, world! It's 12 o'clock; I'LL go.",
    "1234567 12 2024-11-22 3.14159 1e-5 0x1F",
    "  two  spaces   three\n\n\nlines\r\n\ttabs \t ",
    "def f(x):\n    return {k: v ** 2 for k, v in x.items()}  # 12%",
    "naïve café Ωμέγα ÅÅ étude İ ß ﬁ",
    "日本語のテキスト 中文 한국어 हिन्दी १२३ ٣٤ עברית",
    "😀 👩‍👩‍👧‍👦 🇩🇪 ½ x² ² 10½",
    "a\u00a0b\u3000c\u200bd\u2028e\ufeff",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|> assistant",
    "x<|endoftext|> <|endoftext|>the <|not_a_token|> <|im_start|",
    "\x00\x01\x7f\\ \"'`",
]

MESSAGES = [
    {"role": "system", "content": "Be brief. <b>&</b>"},
    {"role": "user", "content": "What is 2 + 2?\n"},
    {"role": "assistant", "content": "4 😀"},
    {"role": "user", "content": "And 3 + 3?"},
]

TEMPLATES = {
    "blocks are trimmed": (
        "{{ bos_token }}\n{% for m in messages %}\n  {% if m['role'] == 'user' %}\n"
        "[{{ m['content'] | trim }}]\n  {% else %}\n({{ m['role'] }})\n  {% endif %}\n"
        "{% endfor %}\n{% if add_generation_prompt %}\n>>{% endif %}"
    ),
    "loop controls": (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}"
        "{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}{{ eos_token }}"
    ),
    "json": "{{ messages | tojson }}|{{ messages[0] | tojson(indent=2) }}",
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{{ ns.n }}{{ dict(a=1)['a'] }}{% endfor %}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "date": "{{ strftime_now('%Y') }}",
    "tools": "{% if tools %}tools{% endif %}{% if documents is none %}none{% endif %}",
    "undefined": "{{ nothing }}{% if custom is defined %}custom{% endif %}{{ unk_token }}",
}


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model whose files a test may change."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def configure(directory: Path, **changes: Any) -> None:
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def theirs(directory: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(directory)


def test_the_tiny_model_encodes_as_transformers_does(tiny_model: Path) -> None:
    ours, reference = Tokenizer.from_directory(tiny_model), theirs(tiny_model)
    assert ours.size == len(reference)
    for text in TEXTS:
        for special in (True, False):
            ids = ours.encode(text, special=special)
            assert ids == reference.encode(text, add_special_tokens=special), text
        assert ours.decode(ids, special=True) == text
        assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_smollm2_encodes_as_transformers_does(smollm2: Path) -> None:
    ours, reference = Tokenizer.from_directory(smollm2), theirs(smollm2)
    assert ours.size == len(reference) == 49152
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == reference.encode(text), text
        assert ours.decode(ids, special=True) == text
    expected = reference.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert ours.chat(MESSAGES) == expected
    assert ours.end_ids == {2}
    # As in the original tokenizer, each digit is a word of its own, a superscript too.
    assert ours.encode("The year 2024") == [504, 713, 216, 34, 32, 34, 36]
    assert ours.encode(" ²") == [216, 19133]


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_any_text_comes_back(text: str, tiny_model: Path) -> None:
    tokenizer = Tokenizer.from_directory(tiny_model)
    assert tokenizer.decode(tokenizer.encode(text), special=True) == text


def test_lone_surrogates_are_refused(tiny_model: Path) -> None:
    with pytest.raises(StropError, match="not valid Unicode at character 1"):
        Tokenizer.from_directory(tiny_model).encode("a\ud800")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_templates_render_as_in_transformers(name: str, prompt: bool, model: Path) -> None:
    (model / "chat_template.jinja").write_text(TEMPLATES[name])
    expected = theirs(model).apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=prompt
    )
    assert Tokenizer.from_directory(model).chat(MESSAGES, generation_prompt=prompt) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "chat template failed"),
        ("{{ messages[0].content + 1 }}", "cannot render these messages"),
        ("{{ ''.__class__.__mro__ }}", "chat template failed"),
        ("{{ messages.append(1) }}", "chat template failed"),
        ("{{ 1 // 0 }}", "cannot render these messages"),
    ],
)
def test_a_template_that_fails_is_one_error(template: str, reason: str, model: Path) -> None:
    (model / "chat_template.jinja").write_text(template)
    with pytest.raises(StropError, match=reason):
        Tokenizer.from_directory(model).chat(MESSAGES)


def test_where_the_template_comes_from(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    configure(model, chat_template=None)
    with pytest.raises(StropError, match="no chat template"):
        Tokenizer.from_directory(model).chat(MESSAGES)
    configure(model, chat_template="plain")
    assert Tokenizer.from_directory(model).chat(MESSAGES) == "plain"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    configure(model, chat_template=named)
    assert Tokenizer.from_directory(model).chat(MESSAGES) == "yes"
    (model / "chat_template.jinja").write_text("own file")
    assert Tokenizer.from_directory(model).chat(MESSAGES) == "own file"
    configure(model, chat_template=3)
    (model / "chat_template.jinja").unlink()
    with pytest.raises(StropError, match="chat_template is not text"):
        Tokenizer.from_directory(model)
    for damaged in ([1], [{"name": "default"}], [{"template": "x"}]):
        configure(model, chat_template=damaged)
        with pytest.raises(StropError, match="chat_template: no name or text"):
            Tokenizer.from_directory(model)


def test_tokens_that_only_the_configuration_knows(model: Path) -> None:
    configure(
        model,
        additional_special_tokens=["<extra>"],
        mask_token={"__type": "AddedToken", "content": "<mask>", "lstrip": True},
        sep_token="<sep>",
        added_tokens_decoder={
            "260": {"content": "<later>", "special": False, "normalized": False},
            "259": {"content": "<first>", "special": True, "normalized": False},
        },
    )
    ours, reference = Tokenizer.from_directory(model), theirs(model)
    text = "a<extra>b<sep>c<first>d<later>e <mask> f"
    assert ours.encode(text) == reference.encode(text)
    assert ours.size == len(reference) == 264


def test_bos_comes_from_the_post_processor(model: Path) -> None:
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
        },
    }
    content["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    ours, reference = Tokenizer.from_directory(model), theirs(model)
    for text in TEXTS:
        assert ours.encode(text) == reference.encode(text)
        assert ours.encode(text)[0] == 1


@pytest.mark.parametrize(
    ("file", "content", "ends"),
    [
        ("generation_config.json", {"eos_token_id": [7, 9]}, {2, 7, 9}),
        ("generation_config.json", {"eos_token_id": 7}, {2, 7}),
        ("generation_config.json", {}, {2}),
        ("config.json", {"eos_token_id": None}, {2}),
    ],
)
def test_ids_that_end_a_text(file: str, content: Any, ends: set[int], model: Path) -> None:
    (model / file).write_text(json.dumps(content))
    assert Tokenizer.from_directory(model).end_ids == ends


def test_the_end_of_a_turn_is_an_end(model: Path) -> None:
    # A base model tuned for chat later: eos is still the end of a document.
    for name in ("generation_config.json", "config.json"):
        (model / name).write_text(json.dumps({"eos_token_id": 0}))
    configure(model, eos_token="<|endoftext|>")
    assert Tokenizer.from_directory(model).end_ids == {0, 2}
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert Tokenizer.from_directory(model).end_ids == {0}


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_text(text) and None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove("tokenizer.json"), "no tokenizer.json"),
        (write("tokenizer.json", "{"), "not a tokenizer"),
        (write("tokenizer.json", "{}"), "not a tokenizer"),
        (write("tokenizer_config.json", "[]"), "expected a JSON object"),
        (write("tokenizer_config.json", "{"), "not valid JSON"),
        (write("tokenizer_config.json", '{"bos_token": 3}'), "not a token: 3"),
        (write("tokenizer_config.json", '{"added_tokens_decoder": []}'), "added tokens"),
        (write("generation_config.json", '{"eos_token_id": "2"}'), "not a token id"),
    ],
)
def test_a_broken_directory_is_one_error(
    damage: Callable[[Path], None], reason: str, model: Path
) -> None:
    damage(model)
    with pytest.raises(StropError, match=reason) as caught:
        Tokenizer.from_directory(model)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
