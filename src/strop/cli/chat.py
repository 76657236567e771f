"""`strop chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from strop.cli.generate import show, speed
from strop.cli.options import (
    Backend,
    Chosen,
    Drafting,
    KeyValues,
    Model,
    System,
    with_sampling,
)
from strop.console import say
from strop.errors import StropError, StropFailure, unknown_name

if TYPE_CHECKING:
    from strop.decoding import Conversation


@with_sampling
def chat(
    model: Model,
    sampling: Chosen,
    system: System = None,
    backend: Backend = None,
    kv: KeyValues = None,
    drafter: Drafting = None,
) -> None:
    """Talk with a chat model.

    Each line you type is a message; the model sees the conversation so far.
    Ctrl-C stops an answer, Ctrl-D leaves.
    Inside: /help, /reset, /system TEXT, /save FILE, /exit.
    If standard input is not a terminal, each of its lines is a message.

    [bold]Examples[/bold]

      strop chat smollm2

      strop chat smollm2 --system "You are a pirate." --temperature 1

      printf 'My name is Ada.\\nWhat is my name?\\n' | strop chat smollm2
    """
    from strop.decoding import Conversation, Sampling, planner_for
    from strop.models import load

    settings = Sampling(**sampling)
    loaded = load(model, backend, kv)
    if loaded.tokenizer.template is None:
        raise StropError(f"{model} has no chat template: use  strop generate {model} PROMPT")
    talk = Conversation(loaded, settings, system, planner_for(loaded, drafter or "auto"))
    say(f"{model}: /help lists commands, Ctrl-C stops an answer, Ctrl-D leaves")
    for line in typed_lines():
        try:
            if line.startswith("/"):
                if not command(talk, line):
                    return
            elif line.strip():
                answer(talk, line)
        except StropFailure:
            raise
        except StropError as error:
            say(f"strop: {error}")  # the next message may be better


def typed_lines() -> Iterator[str]:
    """Yield lines from the terminal, with editing and history, or from a pipe until it ends."""
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  # importing it is what gives input() its line editing
    while True:
        try:
            line = input("> ") if terminal else sys.stdin.readline()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            say("\n(Ctrl-D or /exit leaves)")
            continue
        except UnicodeDecodeError as error:
            raise StropError("standard input: not UTF-8 text") from error
        if not line and not terminal:
            return
        yield line.removesuffix("\n")


def answer(talk: Conversation, text: str) -> None:
    """Show the answer to a message as it is written; Ctrl-C ends it early."""
    before = talk.forgotten
    try:
        with closing(talk.reply(text)) as deltas:
            if forgotten := talk.forgotten - before:
                turns = "turn is" if forgotten == 1 else f"{forgotten} turns are"
                say(f"(context full: the oldest {turns} forgotten)")
            for delta in deltas:
                show(delta)
    except KeyboardInterrupt:
        print()
        say("(stopped)")
        return
    print(flush=True)
    if delta.statistics and sys.stderr.isatty():
        say(f"({speed(delta.statistics)})")


def command(talk: Conversation, line: str) -> bool:
    """Do what a line that starts with / says; return False to leave."""
    name, _, argument = line.partition(" ")
    if name == "/exit":
        return False
    if name not in COMMANDS:
        raise unknown_name("command", name, [*COMMANDS, "/exit"])
    COMMANDS[name][0](talk, argument.strip())
    return True


def show_help(talk: Conversation, argument: str) -> None:
    """List the commands."""
    for name, (_, meaning) in COMMANDS.items():
        say(f"{name:<14} {meaning}")
    say(f"{'/exit':<14} leave (or Ctrl-D)")


def reset(talk: Conversation, argument: str) -> None:
    """Start over."""
    talk.reset()
    say("(the conversation starts anew)")


def set_system(talk: Conversation, argument: str) -> None:
    """Change the system message."""
    talk.system = argument or None
    say("(system message set)" if argument else "(no system message)")


def save(talk: Conversation, argument: str) -> None:
    """Write the conversation to a file."""
    from strop.data import write_json

    if not argument:
        raise StropError("/save needs a file name: /save talk.json")
    try:
        path = Path(argument).expanduser()
    except RuntimeError as error:  # ~ of nobody
        raise StropError(f"cannot write {argument}: {error}") from error
    write_json(path, {"messages": talk.messages})
    say(f"({len(talk.turns)} messages saved to {path})")


#: What can be typed besides messages, and what it does
COMMANDS: dict[str, tuple[Callable[[Conversation, str], None], str]] = {
    "/help": (show_help, "show this list"),
    "/reset": (reset, "forget the conversation; the system message stays"),
    "/system": (set_system, "TEXT: set the system message; without text, remove it"),
    "/save": (save, "FILE: write the conversation as JSON"),
}
