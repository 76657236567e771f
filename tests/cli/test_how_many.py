"""strop how-many: what it says without training anything."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from strop.cli.main import app
from strop.errors import StropError


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["how-many", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_prompts_that_a_test_needs() -> None:
    assert "a net win rate of 0.55 in 80 of 100 studies" in run("--difference", 0.05, "--ties", 0.3)
    assert "a net win rate of 0.16 in" in run("--difference", -0.34, "--ties", 0.3)


@pytest.mark.parametrize("difference", [0.35, 0.6, -0.35, "nan"])
def test_a_win_rate_that_cannot_be_is_said_by_what_was_typed(difference: object) -> None:
    said = f"--difference {difference} with --ties 0.3: .* is less than 0.35 away from one half"
    with pytest.raises(StropError, match=said):
        run("--difference", difference, "--ties", 0.3)
