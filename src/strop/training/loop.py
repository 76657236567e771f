"""The training loop: any objective, one process or several, and back from a kill.

A step takes `batch` items, computes them in lots that fit into memory, and divides by the weight of
the whole batch: the result does not depend on how many lots or processes there are, but for the
order of additions. Everything that a later step depends on is in one file, written so often that
writing takes at most a twentieth of the time; a run that was killed goes on from it and ends with
the same weights, bit for bit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from strop.console import progress, say
from strop.data import atomic_path, make_directory, write_json
from strop.errors import StropError, StropFailure
from strop.training.interrupt import deferred
from strop.training.memory import ROOM
from strop.training.processes import open_accelerator, own_device
from strop.training.schedule import TrainingConfig, batches, learning_rate, step_count
from strop.training.sequences import Group, filled

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE, BAD_BATCH, LOGS = "state.pt", "bad-batch.json", "logs"  #: in the work directory
EVALUATIONS = 4  #: of a run, if nothing else is said
SAVING = 0.05  #: part of the time, at most

Row = dict[str, float]  #: what is known of one item: losses, log-probabilities, lengths


class Item(Protocol):
    """What an objective learns from, one at a time."""

    @property
    def group(self) -> Group:
        """Return the tokens."""


class State(Protocol):
    """What an objective learns itself, kept with the weights; as modules and optimizers have it."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and numbers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""


@dataclass(frozen=True)
class Objective:
    """What to make small."""

    #: network, items, what `prepare` gave -> the sum of the items' losses, a row for each
    loss: Callable[[Any, Sequence[Any], torch.Tensor | None], tuple[torch.Tensor, list[Row]]]
    weight: Callable[[Any], float] = lambda item: 1.0  #: of an item in the mean over a batch
    #: two sums over items that the loss of each of a batch depends on; added up over all lots
    prepare: Callable[[Any, Sequence[Any]], torch.Tensor] | None = None
    state: State | None = None
    keep_best: bool = True  #: whether the weights of the best evaluation remain, or the last ones


@dataclass(frozen=True)
class Order:
    """Which items come in which step."""

    steps: int
    batch: Callable[[int], Sequence[int]]  #: of a step, asked for when it begins


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0  #: steps that were taken
    best: float = math.inf  #: lowest loss of an evaluation
    best_step: int = 0  #: after which step it was
    stale: int = 0  #: evaluations since then


@dataclass(frozen=True)
class Trained:
    """What came of a run; the network has the best weights where there was an evaluation."""

    steps: int  #: that were taken
    best_step: int  #: of the best evaluation
    evaluations: list[dict[str, Any]]  #: step, and the mean of each figure over the held-out items
    history: list[dict[str, Any]]  #: step, and the means over its batch


def train(
    network: Any,
    items: Sequence[Item],
    objective: Objective,
    config: TrainingConfig,
    work: Path,
    held_out: Sequence[Item] = (),
    label: str = "training",
    order: Order | None = None,
) -> Trained:
    """Train what requires a gradient; go on where an earlier call in the directory `work` stopped.

    `order` says which items come in which step; without it, all of them come in random order, as
    many epochs as `config` says. Evaluates on `held_out` items, first before any step; with
    `config.patience` it stops early, and the weights of the best evaluation are what remains, or
    the last ones, if the objective says so.
    Raises StropFailure for a loss that is not finite, after writing the items to `work`, and
    StropError where there is nothing to learn from.
    """
    if not items:
        raise StropError("no items to train on")
    for tracker in config.trackers:
        if find_spec(tracker) is None:  # accelerate would go on without it
            raise StropError(f"{tracker} is not installed: pip install {tracker}")
    accelerator = open_accelerator(config.trackers, work / LOGS)
    make_directory(work)
    network.train()  # lets layers be checkpointed; nothing here drops out
    run = Run(network, objective, config, accelerator, work)
    steps = step_count(len(items), config) if order is None else order.steps
    every = config.evaluate_every or max(1, math.ceil(steps / EVALUATIONS))
    accelerator.wait_for_everyone()  # the first may still clear what other settings left
    state = run.restored()
    say(f"{label}: {steps} steps of {config.batch}, from {len(items):,} items")
    run.start_trackers(label)
    following: Iterable[Sequence[int]]
    if order is None:
        following = batches(len(items), config, state.step, steps)
    else:
        following = map(order.batch, range(state.step, steps))
    stop = False
    with progress(label, steps, "steps") as advance, deferred() as stopping:
        advance(state.step)
        if held_out and not state.step:
            run.evaluate(held_out, state)
        for batch in following:
            if config.patience and state.stale >= config.patience:
                say(f"stopped after step {state.step}: no better since step {state.best_step}")
                break
            run.take_step([items[index] for index in batch], state, steps)
            if held_out and (state.step % every == 0 or state.step == steps):
                run.evaluate(held_out, state)
            stop = run.any_process(stopping())
            run.save(state, now=stop or state.step == steps)
            advance(1)
            if stop:
                break
    # Here a signal that came to this process takes effect.
    if stop:
        raise StropFailure(f"stopped after step {state.step}: the same command goes on")
    run.finish(state)
    return Trained(
        steps=state.step,
        best_step=state.best_step if held_out else state.step,
        evaluations=[row for row in run.history if row["kind"] == "evaluation"],
        history=[row for row in run.history if row["kind"] == "step"],
    )


@dataclass
class Run:
    """A run: what stays the same from step to step, and the files it keeps."""

    network: Any
    objective: Objective
    config: TrainingConfig
    accelerator: Accelerator
    work: Path
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)  # weights of the best evaluation

    def __post_init__(self) -> None:
        self.weights = {
            name: one for name, one in self.network.named_parameters() if one.requires_grad
        }
        self.optimizer = torch.optim.AdamW(
            self.weights.values(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
        )
        self.saved_at = time.monotonic()
        self.saving_took = 0.0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this process's part of some items; the parts are about equally long."""
        order = sorted(items, key=lambda item: -item.group.size)
        return order[self.accelerator.process_index :: self.accelerator.num_processes]

    def lots(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Yield the items in lots that fit into memory."""
        for lot in filled([item.group for item in items], self.config.room or ROOM):
            yield [items[index] for index in lot]

    def prepared(self, items: Sequence[Item]) -> torch.Tensor | None:
        """Return what the losses of a batch have in common."""
        if self.objective.prepare is None:
            return None
        with torch.no_grad():
            total = torch.zeros(2, device=own_device())  # a share may be empty
            for lot in self.lots(items):
                total += self.objective.prepare(self.network, lot)
        return self.accelerator.reduce(total, "sum")

    def take_step(self, batch: Sequence[Item], state: Progress, steps: int) -> None:
        """Update the weights by one batch."""
        mine = self.share(batch)
        shared = self.prepared(mine)
        weight = sum(self.objective.weight(item) for item in batch)
        total, rows = 0.0, []
        bad: list[Item] = []
        for lot in self.lots(mine):
            loss, of_lot = self.objective.loss(self.network, lot, shared)
            if not torch.isfinite(loss):
                bad = lot
                break
            (loss / weight).backward()
            total += float(loss.detach()) / weight
            rows += of_lot
        self.stop_if_bad(bad, f"step {state.step + 1}: the loss is not finite")
        norm = self.reduce_and_clip()
        unstable = [] if math.isfinite(norm) else mine
        self.stop_if_bad(unstable, f"step {state.step + 1}: the gradient is not finite")
        rate = learning_rate(self.config, state.step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        state.step += 1
        total, rows = self.gathered(total, rows)
        self.note("step", state.step, {**means(rows), "loss": total, "rate": rate, "norm": norm})

    def gathered(self, total: float, rows: list[Row]) -> tuple[float, list[Row]]:
        """Add up a number and put rows together over all processes."""
        if self.accelerator.num_processes == 1:
            return total, rows
        from accelerate.utils import gather_object

        found = gather_object([(total, rows)])
        return sum(one for one, _ in found), [row for _, part in found for row in part]

    def reduce_and_clip(self) -> float:
        """Add up the gradients of all processes and clip them; return their norm before."""
        gradients = []
        for one in self.weights.values():
            if one.grad is None:
                one.grad = torch.zeros_like(one)
            gradients.append(one.grad)
        if self.accelerator.num_processes > 1:
            flat = self.accelerator.reduce(torch.cat([one.flatten() for one in gradients]), "sum")
            for one, part in zip(
                gradients, flat.split([g.numel() for g in gradients]), strict=True
            ):
                one.copy_(part.view_as(one))
        limit = self.config.clip or math.inf
        return float(torch.nn.utils.clip_grad_norm_(self.weights.values(), limit))

    def evaluate(self, held_out: Sequence[Item], state: Progress) -> None:
        """Measure the loss on held-out items; note whether it is the lowest so far."""
        with torch.no_grad():
            shared = self.prepared(self.share(held_out))
            total, rows = 0.0, []
            bad: list[Item] = []
            for lot in self.lots(self.share(held_out)):
                loss, of_lot = self.objective.loss(self.network, lot, shared)
                bad = bad or ([] if torch.isfinite(loss) else lot)
                total += float(loss)
                rows += of_lot
        self.stop_if_bad(bad, f"step {state.step}: the loss on held-out prompts is not finite")
        weight = sum(self.objective.weight(item) for item in held_out)
        total, rows = self.gathered(total / weight, rows)
        if total < state.best:
            state.best, state.best_step, state.stale = total, state.step, 0
            if self.objective.keep_best:
                self.best = {name: one.detach().clone() for name, one in self.weights.items()}
        else:
            state.stale += 1
        figures = {**means(rows), "loss": total}
        self.note("evaluation", state.step, figures)
        right = f", right order {figures['right']:.0%}" if "right" in figures else ""
        say(f"step {state.step}: held-out loss {total:.4g}{right} (n = {len(rows)})")

    def note(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """Keep the figures of a step or an evaluation, and tell the trackers."""
        self.history.append({"kind": kind, "step": step, **figures})
        if self.config.trackers:
            prefix = "train" if kind == "step" else "eval"
            self.accelerator.log({f"{prefix}/{k}": v for k, v in figures.items()}, step=step)

    def start_trackers(self, label: str) -> None:
        """Tell the trackers what begins."""
        if self.config.trackers:
            values = {
                key: one if isinstance(one, int | float | str) else json.dumps(one)
                for key, one in asdict(self.config).items()
            }
            self.accelerator.init_trackers(label, config=values)

    def save(self, state: Progress, now: bool) -> None:
        """Write the state, if the last time is long enough ago or `now`."""
        begin = time.monotonic()
        if not now and begin - self.saved_at < self.saving_took / SAVING:
            return
        if self.accelerator.is_main_process:
            content = {
                "progress": vars(state),
                "weights": {name: one.detach() for name, one in self.weights.items()},
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "history": json.dumps(self.history),
                "objective": self.objective.state.state_dict() if self.objective.state else {},
                "random": torch.get_rng_state(),
            }
            with atomic_path(self.work / STATE) as partial, partial.open("wb") as stream:
                try:
                    torch.save(content, stream)
                except RuntimeError as error:  # so PyTorch reports a full disk
                    raise StropError(f"cannot write {self.work / STATE}: {error}") from error
        self.saved_at = time.monotonic()
        self.saving_took = self.saved_at - begin

    def restored(self) -> Progress:
        """Take up what `save` wrote."""
        path = self.work / STATE
        if not path.exists():
            return Progress()
        try:
            kept = torch.load(path, map_location=own_device(), weights_only=True)
            with torch.no_grad():
                for name, one in self.weights.items():
                    one.copy_(kept["weights"][name])
            self.optimizer.load_state_dict(kept["optimizer"])
            torch.set_rng_state(kept["random"].cpu())
            self.best = kept["best"]
            self.history = json.loads(kept["history"])
            if self.objective.state:
                self.objective.state.load_state_dict(kept["objective"])
            state = Progress(**kept["progress"])
        except MemoryError:
            raise
        except Exception as error:  # a damaged archive raises whatever its parser stumbles over
            raise StropError(f"{path} is damaged ({error!r:.200}): remove it") from error
        say(f"going on after step {state.step}")
        return state

    def any_process(self, flag: bool) -> bool:
        """Tell whether a flag is set in any process."""
        if self.accelerator.num_processes == 1:
            return flag
        found = self.accelerator.reduce(torch.tensor(float(flag), device=own_device()), "sum")
        return bool(found > 0)

    def stop_if_bad(self, items: Sequence[Item], what: str) -> None:
        """Keep the items that something is wrong with, if there are any, and stop all processes."""
        if items:
            rows = [[list(item.group.prompt), *map(list, item.group.completions)] for item in items]
            with suppress(StropError):  # the failure is what matters
                write_json(self.work / BAD_BATCH, {"what": what, "tokens": rows})
        if self.any_process(bool(items)):
            raise StropFailure(
                f"{what}: lower the learning rate; its items are in {self.work / BAD_BATCH}"
            )

    def finish(self, state: Progress) -> None:
        """Give the network the weights that were kept as the best, and close the trackers.

        Raises StropFailure for weights that are not finite, which no evaluation has seen.
        """
        with torch.no_grad():
            for name, one in self.best.items():
                self.weights[name].copy_(one)
        if not all(bool(one.isfinite().all()) for one in self.weights.values()):
            raise StropFailure(
                f"after step {state.step} the weights are not finite: lower the learning rate"
            )
        if self.config.trackers:
            for tracker in self.accelerator.trackers:  # end_training would end the processes too
                tracker.finish()


def means(rows: Sequence[Row]) -> dict[str, float]:
    """Average what the rows know, each figure over the rows that have it, and count the rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    result: dict[str, float] = {"n": len(rows)}
    for name in names:
        values = [row[name] for row in rows if name in row]
        result[name] = sum(values) / len(values)
    return result
