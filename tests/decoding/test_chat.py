import pytest

from strop.decoding import (
    GREEDY,
    Conversation,
    Sampling,
    chat_tokens,
    complete,
    prompt_tokens,
)
from strop.errors import StropError

SHORT = Sampling(max_tokens=20)


def say(talk, text):
    return "".join(delta.text for delta in talk.reply(text))


def test_each_answer_is_that_of_the_whole_conversation(fake):
    model = fake()
    talk = Conversation(model, SHORT, system="be brief")
    answers = [say(talk, text) for text in ("one", "two", "three")]
    messages = [{"role": "system", "content": "be brief"}]
    for text, answer in zip(("one", "two", "three"), answers, strict=True):
        messages.append({"role": "user", "content": text})
        fresh = complete(fake(), chat_tokens(model.tokenizer, messages), SHORT)
        assert fresh.text == answer
        messages.append({"role": "assistant", "content": answer})
    assert talk.messages == messages


def test_the_cache_is_reused_across_turns(fake):
    model = fake(script="yes")
    talk = Conversation(model, GREEDY)
    model.prompt_length = len("u:hello\na:")
    assert say(talk, "hello") == "yes"
    model.passes.clear()
    model.prompt_length = len("u:hello\na:yes\nu:again\na:")
    last = list(talk.reply("again"))[-1]
    assert last.statistics.reused_tokens == len("u:hello\na:yes")
    assert model.passes[0] == len("\nu:again\na:")


def test_reset_forgets_what_was_said_and_keeps_the_system_message(fake):
    talk = Conversation(fake(), SHORT, system="hm")
    first = say(talk, "hello")
    say(talk, "more")
    talk.reset()
    assert talk.messages == [{"role": "system", "content": "hm"}]
    assert say(talk, "hello") == first


def test_the_oldest_turns_make_room(fake):
    model = fake(context_length=100)
    talk = Conversation(model, SHORT, system="s" * 10)
    for index in range(6):
        answer = say(talk, f"question {index}")
        assert talk.messages[0]["role"] == "system"
        assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * (
            len(talk.turns) // 2
        )
        assert talk.turns[-1]["content"] == answer
        assert talk.forgotten == index + 1 - len(talk.turns) // 2
        tokens = chat_tokens(model.tokenizer, talk.messages[:-1])
        assert len(tokens) + SHORT.max_tokens <= model.context_length
    assert talk.forgotten > 0


def test_a_message_longer_than_the_context_changes_nothing(fake):
    talk = Conversation(fake(context_length=60), SHORT)
    say(talk, "hi")
    before = list(talk.turns)
    with pytest.raises(StropError, match="holds 60"):
        talk.reply("x" * 100)
    assert (talk.turns, talk.forgotten) == (before, 0)
    assert say(talk, "still there?")


def test_an_answer_that_is_broken_off_stays_as_far_as_it_got(fake):
    model = fake(script="a long answer")
    model.prompt_length = len("u:go\na:")
    talk = Conversation(model, GREEDY)
    deltas = talk.reply("go")
    shown = "".join(next(deltas).text for _ in range(6))
    deltas.close()
    assert shown == "a long"
    assert talk.turns[-1] == {"role": "assistant", "content": "a long"}
    # The next answer is right whatever the interruption did to the session.
    model.prompt_length = len("u:go\na:a long\nu:go on\na:")
    assert say(talk, "go on") == "a long answer"


def test_a_message_without_any_answer_leaves_no_trace(fake):
    model = fake(script="")  # ends at once
    model.prompt_length = len("u:go\na:")
    talk = Conversation(model, GREEDY)
    assert say(talk, "go") == ""
    assert talk.messages == []


def test_a_pass_that_was_broken_off_leaves_nothing_behind(fake, monkeypatch):
    model = fake()
    talk = Conversation(model, SHORT)
    session = talk.cache.session
    forward = session.forward

    def interrupted(tokens, last):
        if session.length > 15:
            session.tokens.append(99)  # half a pass
            raise KeyboardInterrupt
        return forward(tokens, last)

    monkeypatch.setattr(session, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        say(talk, "hello")
    assert talk.turns[-1]["content"]
    monkeypatch.undo()
    answer = say(talk, "go on")
    expected = complete(fake(), chat_tokens(model.tokenizer, talk.turns[:-1]), SHORT)
    assert answer == expected.text


def test_a_model_without_a_template_says_so(fake):
    with pytest.raises(StropError, match="no chat template"):
        Conversation(fake(template=None), SHORT).reply("hello")


def test_a_prompt_is_a_message_where_there_is_a_template(fake):
    tokenizer = fake().tokenizer
    user = {"role": "user", "content": "hello"}
    system = {"role": "system", "content": "be brief"}
    assert prompt_tokens(tokenizer, "hello") == chat_tokens(tokenizer, [user])
    assert prompt_tokens(tokenizer, "hello", "be brief") == chat_tokens(tokenizer, [system, user])
    assert prompt_tokens(tokenizer, "hello", raw=True) == tokenizer.encode("hello")
    assert prompt_tokens(tokenizer, "") == tokenizer.encode("")
    for text, raw in (("hello", True), ("", False)):
        with pytest.raises(StropError, match="a system message needs a chat template"):
            prompt_tokens(tokenizer, text, "be brief", raw)
