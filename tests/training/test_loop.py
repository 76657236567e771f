"""The loop: the same weights after a kill, the same losses in lots and in two processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.kill_me import items
from tests.training.networks import llama

from strop.errors import StropError, StropFailure
from strop.training.loop import BAD_BATCH, LOGS, STATE, Objective, train
from strop.training.lora import add_lora
from strop.training.schedule import TrainingConfig, batches, learning_rate, step_count
from strop.tuning.losses import LOSSES, loss_settings
from strop.tuning.objective import preference_objective

ROOT = Path(__file__).parents[2]


def process(
    work: Path,
    loss: str = "slic",
    every_step: bool = False,
    stop_after: int = 0,
    bad_item: int = -1,
    **environment: str,
) -> subprocess.Popen[str]:
    options = [str(work), loss, str(int(every_step)), str(stop_after), str(bad_item)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.kill_me", *options],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def outcome(running: subprocess.Popen[str]) -> dict[str, Any]:
    text, _ = running.communicate(timeout=120)
    assert running.returncode == 0
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    wanted = outcome(process(tmp_path / "whole", every_step=True))
    state = tmp_path / "killed" / STATE
    reached = []
    for _ in range(3):
        before = state.stat().st_mtime_ns if state.exists() else 0
        running = process(tmp_path / "killed", every_step=True)
        while running.poll() is None and not (
            state.exists() and state.stat().st_mtime_ns != before
        ):
            time.sleep(0.002)
        running.kill()
        running.communicate()
        assert running.returncode == -signal.SIGKILL  # it had not ended
        reached.append(torch.load(state, weights_only=True)["progress"]["step"])
    assert 0 < reached[0] < reached[1] < reached[2] < len(wanted["losses"])
    assert outcome(process(tmp_path / "killed")) == wanted


def test_ctrl_c_saves_after_the_step(tmp_path: Path) -> None:
    wanted = outcome(process(tmp_path / "whole"))
    running = process(tmp_path / "stopped", stop_after=4)
    running.communicate(timeout=120)
    assert running.returncode == -signal.SIGINT
    kept = torch.load(tmp_path / "stopped" / STATE, weights_only=True)
    assert kept["progress"]["step"] == 4
    assert outcome(process(tmp_path / "stopped")) == wanted


@pytest.mark.parametrize("loss", ["slic", "kto", "best-of-n"])
def test_two_processes_follow_the_curve_of_one(tmp_path: Path, loss: str) -> None:
    """The last batch has one item, so that one process has none."""
    alone = outcome(process(tmp_path / "one", loss))
    assert alone["processes"] == 1
    both = two_processes(tmp_path / "two", loss)
    for one in map(outcome, both):
        assert one["processes"] == 2
        assert one["losses"] == pytest.approx(alone["losses"], rel=1e-5)


def two_processes(work: Path, loss: str = "slic", **options: Any) -> list[subprocess.Popen[str]]:
    """Start two processes that train together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [process(work, loss, **options, RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]


def test_two_processes_stop_together_at_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    both = two_processes(tmp_path / "two", "slic", bad_item=3)
    for one in both:
        one.communicate(timeout=60)
        assert one.returncode == 1
    assert (tmp_path / "two" / BAD_BATCH).exists()


def test_a_signal_to_one_of_two_processes_ends_no_run(tmp_path: Path) -> None:
    wanted = outcome(process(tmp_path / "whole"))
    first, second = two_processes(tmp_path / "two", stop_after=4)
    first.communicate(timeout=60)
    second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (1, -signal.SIGINT)
    kept = torch.load(tmp_path / "two" / STATE, weights_only=True)
    assert 0 < kept["progress"]["step"] < len(wanted["losses"])
    for one in map(outcome, two_processes(tmp_path / "two")):
        assert one["losses"] == pytest.approx(wanted["losses"], rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_lots_do_not_change_the_losses(tmp_path: Path, loss: str) -> None:
    row, settings = loss_settings(loss, {})
    curves = []
    for room in (1, 10_000):
        network = llama()
        add_lora(network, 4, 8.0)
        config = TrainingConfig(learning_rate=1e-2, batch=7, room=room)
        objective = preference_objective(row, settings)
        trained = train(network, items(20), objective, config, tmp_path / str(room))
        curves.append([one["loss"] for one in trained.history])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    assert len(set(curves[0])) > 1


def test_patience_ends_a_run_and_keeps_the_best_weights(tmp_path: Path) -> None:
    """At a rate that ruins the network, an early evaluation is the best."""
    network = llama()
    add_lora(network, 4, 8.0)
    config = TrainingConfig(
        learning_rate=0.5, schedule="constant", warmup=0.0, batch=2, evaluate_every=1, patience=3
    )
    row, settings = loss_settings("best-of-n", {})
    objective = preference_objective(row, settings)
    trained = train(network, items(40), objective, config, tmp_path, held_out=items(50)[40:])
    losses = [one["loss"] for one in trained.evaluations]
    assert losses.index(min(losses)) == trained.best_step == trained.steps - 3 < 17
    with torch.no_grad():
        total = sum(float(objective.loss(network, [one], None)[0]) for one in items(50)[40:])
    weight = sum(map(objective.weight, items(50)[40:]))
    assert total / weight == pytest.approx(min(losses), rel=1e-4)


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    network = llama()
    add_lora(network, 4, 8.0)
    row, settings = loss_settings("slic", {})
    config = TrainingConfig(learning_rate=1e-3, batch=4, trackers=("tensorboard",))
    objective = preference_objective(row, settings)
    trained = train(network, items(12), objective, config, tmp_path, held_out=items(16)[12:])
    every = (tmp_path / LOGS).rglob("events.out.tfevents.*")
    events = min(every, key=lambda path: len(path.parts))  # the settings have one of their own
    kept = EventAccumulator(str(events.parent))
    kept.Reload()
    for tag, rows in (("train/loss", trained.history), ("eval/loss", trained.evaluations)):
        found = [(one.step, one.value) for one in kept.Scalars(tag)]
        wanted = [(one["step"], pytest.approx(one["loss"], rel=1e-5)) for one in rows]
        assert found == wanted


def test_every_epoch_takes_each_item_once() -> None:
    config = TrainingConfig(batch=4, epochs=2)
    every = [index for batch in batches(10, config, 0, step_count(10, config)) for index in batch]
    assert sorted(every[:10]) == sorted(every[10:]) == list(range(10))
    assert every[:10] != every[10:]
    assert list(batches(10, config, 3, 5)) == list(batches(10, config, 0, 5))[3:]


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup=0.2)
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[0] < rates[1] < rates[2] == 1.0
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.1


def test_a_loss_that_is_not_finite_stops_with_its_items_saved(tmp_path: Path) -> None:
    def broken(network: Any, lot: Any, shared: Any) -> Any:
        return torch.tensor(float("nan"), requires_grad=True), []

    with pytest.raises(StropFailure, match=r"not finite.*bad-batch\.json"):
        train(llama(), items(3), Objective(broken), TrainingConfig(), tmp_path)
    assert len(json.loads((tmp_path / BAD_BATCH).read_text())["tokens"]) == 3


def test_held_out_losses_and_weights_that_are_not_finite_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, settings = loss_settings("slic", {})
    objective = preference_objective(row, settings)
    network = llama()
    add_lora(network, 4, 8.0)

    def broken(network: Any, lot: Any, shared: Any) -> Any:
        loss, rows = objective.loss(network, lot, shared)
        return (loss, rows) if torch.is_grad_enabled() else (loss * float("nan"), rows)

    data, held = items(4), items(8)[4:]
    with pytest.raises(StropFailure, match=r"step 0: the loss on held-out .* not finite"):
        train(network, data, Objective(broken), TrainingConfig(), tmp_path / "a", held)

    def spoil(optimizer: torch.optim.AdamW) -> None:
        for one in optimizer.param_groups[0]["params"]:
            one.data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(StropFailure, match="after step 1 the weights are not finite"):
        train(network, data, objective, TrainingConfig(batch=4), tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"schedule": "cosin"}, "cosine"), ({"batch": 0}, "batch"), ({"warmup": 2.0}, "warmup")],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StropError, match=message):
        TrainingConfig(**options)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"no archive")
    row, settings = loss_settings("slic", {})
    with pytest.raises(StropError, match=r"state\.pt is damaged"):
        train(llama(), items(3), preference_objective(row, settings), TrainingConfig(), tmp_path)
