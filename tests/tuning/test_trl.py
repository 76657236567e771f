"""Losses equal those of TRL where it has the same; its values: tests/golden/trl_losses.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from strop.data import read_json
from strop.tuning.losses import Scores, loss_settings

FILE = Path(__file__).parent.parent / "golden" / "trl_losses.json"

#: TRL's trainer and loss -> ours, and its settings as TRL's configuration has them
SAME: dict[str, tuple[str, dict[str, float]]] = {
    "dpo sigmoid": ("dpo", {"beta": 0.1}),
    "dpo hinge": ("hinge", {"beta": 0.05}),
    "dpo ipo": ("ipo", {"beta": 0.1}),
    "dpo sigmoid_norm": ("dpo-norm", {"beta": 5.0}),
    "cpo sigmoid": ("cpo", {"beta": 0.1, "regularization": 1.0}),
    "cpo simpo": ("simpo", {"beta": 2.0, "margin": 0.5}),  # its gamma is 1: margin is gamma / beta
    "cpo hinge": ("slic", {"margin": 1.0}),
    "orpo": ("orpo", {"beta": 0.1}),
    "kto": ("kto", {"beta": 0.1}),
}
PER_TOKEN = ("cpo simpo", "orpo")  # what TRL logs for them are means over tokens


def scores(name: str, beta: float, row: dict[str, float], lengths: list[int]) -> Scores:
    """Put together what TRL logged."""
    tokens = torch.tensor(lengths, dtype=torch.float64)
    logps = torch.tensor([row["logps/chosen"], row["logps/rejected"]], dtype=torch.float64)
    logps = logps * tokens if name in PER_TOKEN else logps
    rewards = torch.tensor([row["rewards/chosen"], row["rewards/rejected"]], dtype=torch.float64)
    return Scores(
        logps=logps,
        lengths=tokens,
        reference=logps - rewards / beta,
        values=None,
        target=logps[0],
        shared=torch.tensor(row.get("kl", 0.0), dtype=torch.float64),
    )


def rows(name: str) -> list[tuple[dict[str, Any], list[int]]]:
    golden = read_json(FILE)
    lengths = golden["lengths"]
    if name == "kto":  # the answer to the first prompt was good, that to the second was bad
        lengths = [[lengths[0][0], lengths[1][1]]]
    found = golden["losses"][name]["rows"]
    assert len(found) == len(lengths)
    return list(zip(found, lengths, strict=True))


@pytest.mark.parametrize("name", SAME)
def test_losses_are_those_of_trl(name: str) -> None:
    ours, settings = SAME[name]
    for row, lengths in rows(name):
        wanted = row["loss"]
        own = dict(settings)
        if name == "cpo hinge":  # its cross-entropy is a mean over tokens, ours a sum
            own["regularization"] = 1.0 / lengths[0]
        loss, chosen = loss_settings(ours, own)
        given = scores(name, settings.get("beta", 1.0), row, lengths)
        found = float(loss.formula(given, chosen))
        if name == "kto":
            found /= 2  # the mean over two examples
        if name == "orpo":  # its cross-entropy counts the prompt too, which the paper's does not
            found += float(given.means[0]) + row["nll_loss"]
        assert found == pytest.approx(wanted, rel=2e-5)


def test_another_setting_gives_another_value() -> None:
    """The negative control."""
    loss, chosen = loss_settings("dpo", {"beta": 0.11})
    row, lengths = rows("dpo sigmoid")[0]
    found = float(loss.formula(scores("dpo sigmoid", 0.1, row, lengths), chosen))
    assert found != pytest.approx(row["loss"], rel=1e-3)
