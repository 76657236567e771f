"""Records, reading, writing and hashing, and work that goes on where it was."""

from strop.data.files import (
    atomic_path,
    make_directory,
    read_json,
    read_text,
    remove,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from strop.data.lines import Records, Rejected, read_rows, report_rejected, write_rows
from strop.data.records import (
    Asked,
    Example,
    Message,
    Preference,
    Prompt,
    held_out,
    prompt_key,
    read_examples,
    read_preferences,
    read_prompts,
)
from strop.data.work import begin_or_go_on, clear, nothing_done

__all__ = [
    "Asked",
    "Example",
    "Message",
    "Preference",
    "Prompt",
    "Records",
    "Rejected",
    "atomic_path",
    "begin_or_go_on",
    "clear",
    "held_out",
    "make_directory",
    "nothing_done",
    "prompt_key",
    "read_examples",
    "read_json",
    "read_preferences",
    "read_prompts",
    "read_rows",
    "read_text",
    "remove",
    "report_rejected",
    "sha256_file",
    "sha256_json",
    "write_json",
    "write_rows",
    "write_text",
]
