"""The `strop` command."""

from strop.cli.main import main

__all__ = ["main"]
