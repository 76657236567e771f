"""Reading, writing and hashing."""

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

__all__ = [
    "atomic_path",
    "make_directory",
    "read_json",
    "read_text",
    "remove",
    "sha256_file",
    "sha256_json",
    "write_json",
    "write_text",
]
