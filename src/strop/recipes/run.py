"""Running a recipe: what is done stays done, what changed runs again, any moment may be the last.

    runs/<name>/recipe.yaml            the recipe with every default filled in
                stages/<nn>-<stage>/   outputs, metrics.json, manifest.json
                report.md, report.html

A stage works in a hidden directory that is renamed into place, complete with its manifest, when it
succeeds: a stage directory is whole or not there. The manifest records a hash over the options, the
contents of all inputs, the seed and the version of Strop; a stage whose hash is the same is kept.
Reports are made from metrics and manifests alone and hold no times but those that a stage `speed`
measured, so that a run that was killed and started again ends with the same bytes as one that was
not.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from strop.console import quantity
from strop.data import (
    atomic_path,
    clear,
    make_directory,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from strop.errors import StropError, unknown_name
from strop.models.environment import environment, peak_memory, reset_peak_memory
from strop.models.identity import tree_hash
from strop.recipes.identity import identity
from strop.recipes.options import decisive, inputs, referred
from strop.recipes.recipe import Recipe, Step
from strop.recipes.report import write_report
from strop.recipes.stage import Context, Finished, Stage

REPORTS = ("report.md", "report.html")
VOLATILE = ("manifest.json",)  # of a stage's output: it says how long it took

#: What a manifest must have for a stage to be kept
MANIFEST = {"hash", "kind", "options", "inputs", "seed", "strop", "metrics", "outputs", "output"}
MANIFEST |= {"seconds", "peak_memory_bytes"}  # shown with a stage that is kept


def run_recipe(
    recipe: Recipe,
    directory: Path,
    kinds: Mapping[str, Stage],
    force: Collection[str] = (),
    tell: Callable[[str], None] = lambda message: None,
) -> list[Finished]:
    """Bring a run directory up to date with a recipe and return its stages in order.

    `force` names stages to run even if nothing changed; `tell` receives one line for each event.
    Raises StropError for bad input, for a stage that fails (stages before it are kept) and when
    another process works in the same directory.
    """
    names = [step.name for step in recipe.steps]
    for name in force:
        if name not in names:
            raise unknown_name("stage", name, names)
    with locked(directory):
        external = {step.name: outside(step) for step in recipe.steps}
        interrupted = (directory / "recipe.yaml").exists() and not reported(directory)
        write_text(directory / "recipe.yaml", recipe.to_yaml())
        finished: dict[str, Finished] = {}
        for number, step in enumerate(recipe.steps, start=1):
            does = f"{number}/{len(names)} {step.name}: {kinds[step.kind].describe(step.options)}"
            target = adopt(directory / "stages", number, step.name)
            plan = planned(step, recipe.seed, external[step.name] | inside(step, finished))
            reason = "as asked" if step.name in force else why(target, plan)
            if reason is None:
                finished[step.name] = kept = read(step, target)
                tell(f"{does}: already done ({spent(kept)})")
                continue
            if interrupted:
                reason, interrupted = "the last run stopped here", False
            tell(f"{does} ({reason})" if reason else does)
            for name in REPORTS:  # they would not belong to the stages any more
                (directory / name).unlink(missing_ok=True)
            finished[step.name] = done = execute(step, kinds, target, plan, finished)
            tell(f"{number}/{len(names)} {step.name}: done in {spent(done)}")
        write_report(recipe, directory, list(finished.values()), kinds)
    return list(finished.values())


def reported(directory: Path) -> bool:
    """Tell whether a run directory has its reports."""
    return all((directory / name).exists() for name in REPORTS)


def adopt(stages: Path, number: int, name: str) -> Path:
    """Return the directory of a stage; one that had another number in the recipe is renamed."""
    target = stages / f"{number:02d}-{name}"
    for old in stages.glob(f"*-{name}"):
        if old.name.partition("-")[2] == name and not target.exists():
            old.rename(target)
    return target


def execute(
    step: Step,
    kinds: Mapping[str, Stage],
    target: Path,
    plan: Mapping[str, Any],
    finished: Mapping[str, Finished],
) -> Finished:
    """Run one stage into its directory; on any error nothing of it remains."""
    kind = kinds[step.kind]
    options = substituted(step.options, kinds, finished)
    work = target.parent / f".{target.name}.work"
    with atomic_path(target) as partial:
        make_directory(partial)
        reset_peak_memory()
        start = time.monotonic()
        try:
            metrics = kind.run(options, Context(partial, plan["seed"], work))
        except StropError as error:
            raise type(error)(f"stage '{step.name}': {error}") from error
        seconds = time.monotonic() - start
        write_json(partial / "metrics.json", metrics)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        manifest = {
            **plan,
            "metrics": sha256_json(metrics),
            "outputs": {
                str(path.relative_to(partial)): {
                    "bytes": path.stat().st_size,
                    "sha256": sha256_file(path),
                }
                for path in files
            },
            "output": tree_hash(partial / kind.output.path, ignored=VOLATILE)
            if kind.output
            else None,
            "environment": environment(),
            "seconds": round(seconds, 3),
            "peak_memory_bytes": peak_memory(),
        }
        write_json(partial / "manifest.json", manifest)
    if work.is_dir():
        clear(work)
    return dataclasses.replace(read(step, target), executed=True)


def planned(step: Step, seed: int, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return the part of a manifest that is known before the stage runs, with its hash."""
    from strop import __version__

    given = {key: one for key, one in decisive(step.options).items() if key not in hashes}
    plan = {
        "kind": step.kind,
        "options": given,
        "inputs": dict(hashes),
        "seed": seed,
        "strop": __version__,
    }
    return {"hash": sha256_json(plan), **plan}


def why(target: Path, plan: Mapping[str, Any]) -> str | None:
    """Return why a stage must run, None if its directory holds the result, '' if there is none."""
    if not (target / "manifest.json").exists():
        return ""
    manifest = read_object(target / "manifest.json")
    if not manifest.keys() >= MANIFEST:
        return "its manifest.json is not as it was written"
    if manifest["hash"] != plan["hash"]:
        return "changed: " + ", ".join(changes(manifest, plan))
    if sha256_json(read_object(target / "metrics.json")) != manifest["metrics"]:
        return "its metrics.json is not as it was written"
    for name, record in manifest["outputs"].items():
        path = target / name
        if not path.is_file() or sha256_file(path) != record["sha256"]:
            return f"its {name} is not as it was written"
    return None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that holds none, or is damaged, is an empty one."""
    with suppress(StropError):
        value = read_json(path)
        if isinstance(value, dict):
            return value
    return {}


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Name what differs between two plans."""
    for part in ("options", "inputs"):
        keys = dict.fromkeys([*old[part], *new[part]])
        yield from (key for key in keys if old[part].get(key) != new[part].get(key))
    yield from (key for key in ("kind", "seed", "strop") if old[key] != new[key])


def outside(step: Step) -> dict[str, str]:
    """Return the identities of a stage's inputs from outside the run.

    Found for all stages before the first one runs: a typo in the last stage shows at once.
    """
    found = {}
    for key, (kind, value) in inputs(step.options).items():
        if referred(value) is None:
            try:
                found[key] = identity(kind, value)
            except StropError as error:
                raise type(error)(f"stage '{step.name}': {key}: {error}") from error
    return found


def inside(step: Step, finished: Mapping[str, Finished]) -> dict[str, str]:
    """Return the identities of a stage's inputs that are outputs of earlier stages."""
    names = {key: referred(value) for key, (_, value) in inputs(step.options).items()}
    return {key: finished[name].manifest["output"] for key, name in names.items() if name}


def substituted(options: Any, kinds: Mapping[str, Stage], finished: Mapping[str, Finished]) -> Any:
    """Return the options with the paths of earlier outputs in place of `${stage}`."""
    values = {}
    for key, (_, value) in inputs(options).items():
        name = referred(value)
        if name is not None:
            output = kinds[finished[name].kind].output
            assert output is not None  # the recipe was checked when it was read
            values[key] = str(finished[name].directory / output.path)
    return dataclasses.replace(options, **values)


def read(step: Step, directory: Path) -> Finished:
    """Read back a complete stage."""
    metrics = read_json(directory / "metrics.json")
    manifest = read_json(directory / "manifest.json")
    return Finished(step.name, step.kind, step.options, directory, metrics, manifest, False)


def spent(stage: Finished) -> str:
    """Say what a stage took."""
    memory = quantity(stage.manifest["peak_memory_bytes"], "B")
    return f"{stage.manifest['seconds']:.1f} s, {memory} of memory"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run directory; the lock of a process that died is void."""
    make_directory(directory)
    ours = (directory / ".lock").exists() or (directory / "stages").is_dir()
    if not ours and (found := sorted(directory.iterdir())):
        raise StropError(
            f"{directory}: holds {found[0].name} and is not a run directory: name another with -o"
        )
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip()
            message = f"process {owner or 'unknown'} works in {directory}: wait for it, or use -o"
            raise StropError(message) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)
