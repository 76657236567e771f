"""strop how-many: what it says without training anything."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from strop.cli.main import app
from strop.errors import StropError
from strop.stats import paired_proportions


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["how-many", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_prompts_that_a_test_needs() -> None:
    assert "a net win rate of 0.55 in 80 of 100 studies" in run("--difference", 0.05, "--ties", 0.3)
    assert "a net win rate of 0.16 in" in run("--difference", -0.34, "--ties", 0.3)


@pytest.mark.parametrize("ties", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(("of", "part"), [("win-rate", 1.0), ("accuracy", 0.5)])
def test_so_many_prompts_show_the_difference(of: str, part: float, ties: float) -> None:
    # Of 1,000 studies with so many prompts, four fifths have an interval without zero.
    said = run("--difference", 0.1, "--of", of, "--ties", ties)
    count = int(said.split()[0].replace(",", ""))
    away = 0.1 * part
    shares = [(1 - ties) / 2 + away, ties, (1 - ties) / 2 - away]
    rng = np.random.default_rng(0)
    shown = [
        paired_proportions(int(wins), int(losses), count).low > 0.0
        for wins, _, losses in rng.multinomial(count, shares, 1000)
    ]
    assert 0.76 <= np.mean(shown) <= 0.84


def test_prompts_for_a_width() -> None:
    assert run("--within", 0.05).startswith("381 prompts give an accuracy of one half to within")
    with pytest.raises(StropError, match="ask one of them"):
        run("--within", 0.05, "--difference", 0.1)


def test_accuracies_that_cannot_be() -> None:
    with pytest.raises(StropError, match=r"accuracies differ by less than 0\.3"):
        run("--difference", 0.4, "--of", "accuracy", "--ties", 0.7)
    with pytest.raises(StropError, match="unknown --of 'accuracies'"):
        run("--difference", 0.1, "--of", "accuracies")


@pytest.mark.parametrize("difference", [0.35, 0.6, -0.35, "nan"])
def test_a_win_rate_that_cannot_be_is_said_by_what_was_typed(difference: object) -> None:
    said = f"--difference {difference} with --ties 0.3: .* is less than 0.35 away from one half"
    with pytest.raises(StropError, match=said):
        run("--difference", difference, "--ties", 0.3)
