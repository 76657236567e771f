import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import strop
from strop.cli.chat import chat
from strop.cli.generate import generate
from strop.cli.verify import verify
from strop.decoding import GREEDY, Sampling, chat_tokens, complete
from strop.errors import StropError

app = typer.Typer()
app.command()(generate)
app.command()(chat)
app.command()(verify)


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def fails(*arguments, stdin=None):
    """Return the one-line error that a command stops with."""
    result = run(*arguments, stdin=stdin)
    assert isinstance(result.exception, StropError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture(scope="module")
def model(tiny_model):
    return strop.load(str(tiny_model))


def test_greedy_tokens_equal_those_of_transformers(model, tiny_model):
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    for text in ("Hello", "a b c", "日本"):
        prompt = model.tokenizer.encode(text)
        for penalty in (1.0, 1.3):
            theirs = network.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=60,
                repetition_penalty=penalty,
            )[0, len(prompt) :].tolist()
            ours = complete(
                model,
                prompt,
                Sampling(temperature=0, min_p=0, repetition_penalty=penalty, max_tokens=60),
            )
            assert list(ours.tokens) == theirs


def test_the_text_goes_to_standard_output_and_the_rest_to_standard_error(model, tiny_model):
    result = run("generate", tiny_model, "Hello", "--max-tokens", 30, "--seed", 4)
    prompt = chat_tokens(model.tokenizer, [{"role": "user", "content": "Hello"}])
    completion = complete(model, prompt, Sampling(max_tokens=30, seed=4))
    assert result.exit_code == 0
    assert result.stdout == completion.text + "\n"
    assert "chat message" in result.stderr
    assert "--max-tokens 30" in result.stderr
    assert (
        run("generate", tiny_model, "Hello", "--max-tokens", 30, "--seed", 4).stdout
        == result.stdout
    )
    assert (
        run("generate", tiny_model, "Hello", "--max-tokens", 30, "--seed", 5).stdout
        != result.stdout
    )


def test_it_says_what_guesses_rest_on(tiny_model, tmp_path):
    strop.models.pack(str(tiny_model), "bfp8", tmp_path / "packed")
    expected = tmp_path / "expected.txt"
    expected.write_text("Hello")
    few = ("--max-tokens", 20, "--prediction", expected)
    result = run("generate", tmp_path / "packed", "Hello", *few)
    assert "guesses: a pass over 2, 4, 8, 16 tokens takes 1" in result.stderr
    assert "; lookup: " in result.stderr
    for options, reason in ([], "--drafter lookup guesses all the same"), (["none"], "none"):
        drafter = ("--drafter", *options) if options else ()
        result = run("generate", tiny_model, "Hello", *few, *drafter)
        assert "guesses: " not in result.stderr
        assert "--prediction is not used: " in result.stderr
        assert reason in result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_a_text_that_cannot_be_remembered_is_shown_all_the_same(
    tiny_model, tmp_path, monkeypatch, as_json
):
    monkeypatch.setenv("STROP_CACHE", str(tmp_path))
    (tmp_path / "texts").touch()  # where a directory should be
    options = ["--json"] if as_json else []
    result = run("generate", tiny_model, "Hello", "--max-tokens", 9, "--remember", *options)
    assert result.exit_code == 0
    assert result.stdout.strip()
    assert "this text is not remembered: " in result.stderr


def test_nothing_to_verify_is_no_proof(tiny_model, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n  \n")
    message = fails("verify", tiny_model, "--prompts", prompts, "--drafter", "lookup")
    assert message == f"{prompts}: no prompts: write one in each line"


def test_raw_leaves_out_the_template(model, tiny_model):
    result = run("generate", tiny_model, "Hello", "--raw", "--temperature", 0, "--max-tokens", 9)
    sampling = Sampling(temperature=0, max_tokens=9)
    assert result.stdout == complete(model, model.tokenizer.encode("Hello"), sampling).text + "\n"
    assert "as it is" in result.stderr


def test_json_holds_everything_on_one_line(model, tiny_model):
    options = ["--temperature", 0, "--min-p", 0, "--repetition-penalty", 1, "--max-tokens", 20]
    result = run("generate", tiny_model, "-", "--raw", "--json", *options, stdin="Hi there\n")
    assert result.stdout.count("\n") == 1
    value = json.loads(result.stdout)
    expected = complete(
        model,
        model.tokenizer.encode("Hi there"),
        Sampling(0, min_p=0, repetition_penalty=1, max_tokens=20),
    )
    assert value["text"] == expected.text
    assert value["tokens"] == list(expected.tokens)
    assert value["finish_reason"] == expected.finish_reason
    assert value["statistics"]["prompt_tokens"] == len(model.tokenizer.encode("Hi there"))


def test_every_sampling_option_arrives(monkeypatch, tiny_model):
    seen = []

    def record(model, tokens, sampling, planner):
        seen.append(sampling)
        return complete_once(model, tokens, sampling, planner=planner)

    from strop import decoding

    complete_once = decoding.generate
    monkeypatch.setattr(decoding, "generate", record)
    given = {"temperature": 0.5, "top_k": 7, "top_p": 0.8, "min_p": 0.2, "repetition_penalty": 1.5}
    given |= {"max_tokens": 3, "seed": 11}
    options = [
        part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    run("generate", tiny_model, "x", *options, "--stop", "a", "--stop", "b\n")
    run("generate", tiny_model, "x", "--max-tokens", 1)
    assert seen == [Sampling(**given, stop=("a", "b\n")), Sampling(max_tokens=1)]


def test_an_empty_prompt_starts_at_the_beginning_token(model, tiny_model):
    result = run("generate", tiny_model, "", "--max-tokens", 8)
    assert result.stdout == complete(model, [], Sampling(max_tokens=8)).text + "\n"


def test_bad_input_is_one_line(tiny_model, tmp_path):
    assert fails("generate", tiny_model, "x", "--top-p", 2).startswith("top_p must be")
    assert fails("generate", tmp_path / "none", "x")
    assert "leave out raw" in fails("generate", tiny_model, "x", "--raw", "--system", "y")
    assert "holds 512" in fails("generate", tiny_model, "x" * 600)
    assert fails("generate", tiny_model, "a\udcffb")
    assert "not UTF-8" in fails("generate", tiny_model, "-", stdin=b"ab\xff")


def test_chat_remembers_and_obeys_commands(model, tiny_model, tmp_path):
    path = tmp_path / "talk.json"
    lines = [
        "Hello",
        "",
        "/system Be nice.",
        "More",
        f"/save {path}",
        "/reset",
        "Hello",
        "/exit",
        "no",
    ]
    result = run("chat", tiny_model, "--max-tokens", 12, stdin="\n".join(lines))
    assert result.exit_code == 0, result.output
    messages = json.loads(path.read_text())["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    sampling = Sampling(max_tokens=12)
    for end, system in ((2, 1), (4, 0)):  # the system message came after the first answer
        prompt = chat_tokens(model.tokenizer, messages[system:end])
        assert complete(model, prompt, sampling).text == messages[end]["content"]
    last = [messages[0], {"role": "user", "content": "Hello"}]
    third = complete(model, chat_tokens(model.tokenizer, last), sampling).text
    answers = [messages[2]["content"], messages[4]["content"], third]
    assert result.stdout == "".join(answer + "\n" for answer in answers)


def test_chat_goes_on_after_a_mistake(tiny_model):
    lines = ["/hlep", "/save", "/help", "x" * 600, "Hi"]
    result = run("chat", tiny_model, "--max-tokens", 5, stdin="\n".join(lines))
    assert result.exit_code == 0
    assert "did you mean '/help'" in result.stderr
    assert "/save needs a file name" in result.stderr
    assert "forget the conversation" in result.stderr
    assert "holds 512" in result.stderr
    assert result.stdout.endswith("\n")


def test_chat_says_when_it_forgets(tiny_model):
    lines = [f"{index} " + "word " * 20 for index in range(6)]
    result = run("chat", tiny_model, "--max-tokens", 20, stdin="\n".join(lines))
    assert "oldest turn is forgotten" in result.stderr


def test_ctrl_c_stops_the_answer_and_not_the_program(tiny_model, monkeypatch, tmp_path):
    from strop.models.torch_backend import TorchModel

    forward, calls = TorchModel.forward, []

    def interrupted(self, sessions, tokens, last=None):
        calls.append(tokens)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return forward(self, sessions, tokens, last)

    monkeypatch.setattr(TorchModel, "forward", interrupted)
    path = tmp_path / "talk.json"
    result = run("chat", tiny_model, "--max-tokens", 12, stdin=f"Hello\nAgain\n/save {path}\n")
    assert result.exit_code == 0
    assert "(stopped)" in result.stderr
    contents = [m["content"] for m in json.loads(path.read_text())["messages"]]
    assert contents[0] == "Hello"
    assert contents[2] == "Again"
    assert result.stdout.split("\n")[0] == contents[1].split("\n")[0]


def test_the_defaults_in_the_help_are_those_of_sampling():
    import inspect
    import typing

    defaults = Sampling()
    hints = typing.get_type_hints(generate, include_extras=True)
    for name in inspect.signature(generate).parameters:
        if hasattr(defaults, name) and name != "stop":
            option = hints[name].__metadata__[0]
            assert option.show_default == str(getattr(defaults, name))


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_help_teaches_and_imports_nothing_heavy(command):
    code = (
        "import sys, typer\n"
        "from strop.cli.generate import generate\n"
        "from strop.cli.chat import chat\n"
        "app = typer.Typer()\n"
        "app.command()(generate)\n"
        "app.command()(chat)\n"
        f"app([{command!r}, '--help'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip().endswith("[]")
    assert f"strop {command} smollm2" in result.stdout


def test_the_real_model_answers(smollm2):
    loaded = strop.load(str(smollm2))
    question = [{"role": "user", "content": "What is the capital of France?"}]
    completion = complete(loaded, chat_tokens(loaded.tokenizer, question), GREEDY)
    assert "Paris" in completion.text
    assert completion.finish_reason == "end"
