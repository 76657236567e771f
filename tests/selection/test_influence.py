"""Influence beside plain gradients and a step that PyTorch's Adam takes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strop.data.instructions import Instruction
from strop.errors import StropError
from strop.models import pack
from strop.selection import influence as influencing
from strop.selection.influence import TRAINING, influence, readable, warmed_up
from strop.training.loop import STATE
from strop.training.network import open_source, open_trainee

pytestmark = pytest.mark.usefixtures("one_thread")

Value = Callable[[int], str]


def pluses(number: int) -> str:
    return "+" * (number % 5 + 3)


def letters(number: int) -> str:
    return "".join(random.Random(number).choices("abcdefgh", k=number % 5 + 3))


def rows(answer: Value, count: int, name: str = "q") -> list[Instruction]:
    return [Instruction(f"{name}{number}", answer(number)) for number in range(count)]


MIXED = rows(pluses, 12, "say pluses ") + rows(letters, 12, "say letters ")


@pytest.fixture
def model(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that a short warm-up is enough for."""
    monkeypatch.setattr(influencing, "LEAST_WARM_UP", 8)
    # Which type is faster for matrices as small as these changes from moment to moment.
    monkeypatch.setattr("strop.tuning.ranker.fastest_type", lambda model: "float32")
    return str(tiny_model)


def plain_gradient(network: Any, prompt: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """Differentiate the mean loss that the network's own logits give."""
    network.set_attn_implementation("sdpa")
    network.zero_grad()
    logits = network(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    before = logits[len(prompt) - 1 : -1]
    torch.nn.functional.cross_entropy(before, torch.tensor(answer)).backward()
    network.set_attn_implementation("strop_groups")
    found = [one.grad.flatten().clone() for one in network.parameters() if one.requires_grad]
    return torch.cat(found)


def plain_step(network: Any, state: dict[str, Any], gradient: torch.Tensor) -> torch.Tensor:
    """Let PyTorch's Adam take a step, and return what it subtracted, over the learning rate."""
    weights = [one for one in network.parameters() if one.requires_grad]
    copies = [torch.zeros_like(one, requires_grad=True) for one in weights]
    adam = torch.optim.AdamW(copies)
    adam.load_state_dict(deepcopy(state))  # it would be changed in place
    [group] = adam.param_groups
    group["lr"], group["weight_decay"] = 1.0, 0.0
    for one, part in zip(copies, gradient.split([one.numel() for one in copies]), strict=True):
        one.grad = part.view_as(one)
    adam.step()
    return -torch.cat([one.detach().flatten() for one in copies])


def test_it_is_the_mean_cosine_of_adams_step_and_the_gradients_of_the_target(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influencing, "LOT", 2)
    targets = rows(pluses, 3, "target ")
    found = influence(model, MIXED[:3] + MIXED[-3:], targets, tmp_path)
    source = open_source(model)
    items, _ = readable(MIXED[:3] + MIXED[-3:], source)
    aims, _ = readable(targets, source)
    network = open_trainee(source).network
    warmed_up(network, items, tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)["optimizer"]
    goals = [plain_gradient(network, one.prompt, one.target) for one in aims.values()]
    for key, item in items.items():
        gradient = plain_gradient(network, item.prompt, item.target)
        step = plain_step(network, state, gradient)
        cosines = [float(torch.cosine_similarity(step, goal, dim=0)) for goal in goals]
        assert found[key] == pytest.approx(np.mean(cosines), abs=1e-4)
        assert np.std(cosines) > 1e-3


def test_a_step_on_a_row_of_influence_lowers_the_loss_on_the_target(
    model: str, tmp_path: Path
) -> None:
    """What the first order says of the loss is what a small step does to it."""
    targets = rows(pluses, 1, "target ")
    found = influence(model, MIXED, targets, tmp_path)
    source = open_source(model)
    items, _ = readable(MIXED, source)
    [aim] = readable(targets, source)[0].values()
    network = open_trainee(source).network
    adam = warmed_up(network, items, tmp_path)
    weights = [one for one in network.parameters() if one.requires_grad]
    sizes = [one.numel() for one in weights]

    def moved(by: torch.Tensor) -> float:
        """Return the loss of the target, that much further along."""
        with torch.no_grad():
            for one, part in zip(weights, by.split(sizes), strict=True):
                one += part.view_as(one)
            loss, _ = influencing.OBJECTIVE.loss(network, [aim], None)
            for one, part in zip(weights, by.split(sizes), strict=True):
                one -= part.view_as(one)
        return float(loss) / len(aim.target)

    slope = influencing.gradient(network, aim).norm()
    for key, item in items.items():
        step = influencing.unit(adam.step(influencing.gradient(network, item)))
        fall = (moved(-0.01 * step) - moved(0.01 * step)) / 0.02
        assert fall == pytest.approx(-float(found[key]) * float(slope), abs=0.03 * float(slope))


def test_a_row_of_the_target_is_above_those_that_are_not_like_it(
    model: str, tmp_path: Path
) -> None:
    for number, one in enumerate((MIXED[0], MIXED[-1])):
        found = influence(model, MIXED, [one], tmp_path / str(number))
        others = [found[row.key] for row in MIXED if (row in MIXED[:12]) != (one in MIXED[:12])]
        assert float(found[one.key]) > max(map(float, others))


def test_negative_control_kinds_that_are_only_names_do_not_differ(
    model: str, tmp_path: Path
) -> None:
    """Answers of letters: rows of the same kind as the target are above others, names are not."""

    def gap(answer: Value, place: Path) -> float:
        """Return by how much rows that are named as the target are above others, in deviations."""
        own, others = rows(letters, 16, "x "), rows(answer, 16, "y ")
        targets = [Instruction(f"t{n}", letters(n)) for n in range(100, 116)]
        found = influence(model, own + others, targets, place)
        a, b = (np.array([found[one.key] for one in some], float) for some in (own, others))
        return float((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 16))

    assert gap(pluses, tmp_path / "kind") > 4.0
    assert abs(gap(lambda number: letters(number + 1000), tmp_path / "name")) < 3.0


def test_who_is_interrupted_goes_on_with_equal_numbers(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influencing, "LOT", 1)
    targets = rows(pluses, 3, "target ")
    wanted = influence(model, MIXED, targets, tmp_path / "whole")
    real, calls = influencing.gradient, []

    def counted(network: Any, item: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) in (2, 7):  # of the target, and of the rows
            raise KeyboardInterrupt
        return real(network, item)

    monkeypatch.setattr(influencing, "gradient", counted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            influence(model, MIXED, targets, tmp_path / "work")
    assert influence(model, MIXED, targets, tmp_path / "work") == wanted
    assert len(calls) == 3 + len(MIXED) + 2


def test_a_packed_model_has_influences_too(model: str, tmp_path: Path) -> None:
    pack(model, "bfp8", tmp_path / "packed")
    targets = rows(pluses, 3, "target ")
    plain = influence(model, MIXED, targets, tmp_path / "a")
    packed = influence(str(tmp_path / "packed"), MIXED, targets, tmp_path / "b")
    pairs = [(float(plain[one.key]), float(packed[one.key])) for one in MIXED]
    assert np.corrcoef(np.array(pairs).T)[0, 1] > 0.9


def test_the_warm_up_is_on_a_part_of_the_rows(model: str, tmp_path: Path) -> None:
    source = open_source(model)
    items, _ = readable(MIXED, source)
    network = open_trainee(source).network
    adam = warmed_up(network, items, tmp_path)
    assert adam.steps == 8 * TRAINING.epochs // TRAINING.batch
    assert adam.first.shape == adam.second.shape
    assert float((adam.second > 0).float().mean()) > 0.99  # of the adapters' first matrices too


def test_what_does_not_fit_has_a_reason(model: str, tmp_path: Path) -> None:
    long = Instruction("x" * 600, "y")
    found = influence(model, [*MIXED, long], MIXED[:2], tmp_path / "a")
    assert found[long.key] == "prompt longer than the context of 512 tokens"
    assert all(isinstance(found[one.key], float) for one in MIXED)
    with pytest.raises(StropError, match="the target has no row that fits: prompt longer"):
        influence(model, MIXED, [long], tmp_path / "b")
    with pytest.raises(StropError, match="no row fits: prompt longer"):
        influence(model, [long], MIXED[:2], tmp_path / "c")
