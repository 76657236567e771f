"""Assisted generation beside plain generation on the same engine, and beside two other libraries.

Every prompt is answered with each drafter and with none side by side, some tokens of each at a
time, in one process; the texts must be the same, token by token. Small models loop, which flatters
drafts: a text is cut where its last 16 tokens stand in it a second time, and what follows is not
measured. Needs .venv-peers and $STROP_DATA; rounds are kept in runs/assisted. Writes
benchmarks/results/assisted*.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import assisted_prompts
import engine_models as models
from assisted_prompts import spread
from assisted_report import cells, claims, peer_cells
from engine_process import THREADS, Row, Setup, rounds, workers
from strop import _native
from strop.console import say
from strop.data import sha256_file, sha256_json, write_json
from strop.decoding import (
    GREEDY,
    CachedSession,
    Completion,
    Delta,
    Planner,
    Sampling,
    collect,
    complete,
    generate,
    prompt_tokens,
)
from strop.decoding.choose import planner_for
from strop.decoding.costs import known_costs
from strop.distillation import make_draft
from strop.models import load, resolve
from strop.models.environment import environment
from strop.models.interface import Model
from tables import table

RESULTS = Path(__file__).parent / "results"
MOST_TOKENS = 128
ROOM = 1920  #: tokens of a prompt, which all of these engines have room for
LOOP = 16  #: tokens that stand in a text twice: from there on it repeats itself
LEAST = 16  #: tokens of a text that is measured
TURN = 16  #: tokens of a text, before it is another one's turn
SAMPLINGS = {
    "greedy": replace(GREEDY, max_tokens=MOST_TOKENS),
    "T=0.8, min-p 0.1": Sampling(temperature=0.8, max_tokens=MOST_TOKENS, seed=1),
}
#: model -> how it is packed, beside those of the engine's benchmark
NESTED = {"format": "bfp8n"}
PEER_PROMPTS = 2  #: of each category
PEER_ROUNDS = 1
TRANSFORMERS = {
    "transformers float32, plain": "plain",
    "transformers float32, lookup": "lookup",
    "transformers float32, assisted by itself": "assistant",
}


def looped(tokens: Sequence[int]) -> int:
    """Return the number of tokens before a text repeats itself."""
    seen = set()
    for end in range(LOOP, len(tokens) + 1):
        piece = tuple(tokens[end - LOOP : end])
        if piece in seen:
            return end - LOOP
        seen.add(piece)
    return len(tokens)


def arms(model: Model, head: Path | None) -> dict[str, str]:
    """Return the ways to generate with a model: name -> what `planner_for` calls it.

    The head does not lie beside the model here, so auto is lookup; beside it, auto is what is
    called head.
    """
    ways = {"plain": "none", "auto": "auto"}
    if model.config["quantization_config"]["format"] == NESTED["format"]:
        return ways | {"nested": "nested"}
    return ways if head is None else ways | {"head": str(head)}


def made_head(model: Path, directory: Path) -> Path:
    """Return a draft head for a model, made by what `strop draft` does and kept for each model."""
    prompts = assisted_prompts.training()
    code = sorted((models.HERE.parent / "src" / "strop" / "distillation").glob("*.py"))
    key = [*map(sha256_file, [model / "model.safetensors", *code]), sha256_json(prompts)]
    head = directory / f"head-{sha256_json(key)[:12]}"
    if not head.exists():
        report = make_draft(str(model), head, prompts)
        say(f"made {head.name}: {json.dumps(report.to_json())}")
    return head


def measure_some(
    model: Model, head: Path | None, category: str, prompts: Sequence[str], number: int
) -> Row:
    """Answer some prompts in each way, in turns; a row for each prompt and sampling."""
    ways = arms(model, head)
    planners = {
        kind: {arm: planner_for(model, name) for arm, name in ways.items()} for kind in SAMPLINGS
    }
    clocks = {
        kind: {arm: Clock(one) for arm, one in some.items() if one}
        for kind, some in planners.items()
    }
    chance = random.Random(number)
    found = []
    for index, prompt in enumerate(prompts):
        tokens = prompt_tokens(model.tokenizer, prompt)[:ROOM]
        caches = {arm: CachedSession(model.session()) for arm in ways}
        for kind, sampling in SAMPLINGS.items():
            plain = complete(model, tokens, sampling, caches["plain"])
            length = looped(plain.tokens)
            row: Row = {"sampling": kind, "category": category, "prompt": index}
            row |= {"tokens": length, "differ": 0, "arms": {}}
            found.append(row)
            settings = replace(sampling, max_tokens=length)
            before = {arm: clock.seconds for arm, clock in clocks[kind].items()}
            done = in_turns(
                {
                    arm: generate(model, tokens, settings, caches[arm], planners[kind][arm])
                    for arm in ways
                },
                chance,
            )
            for arm, completion in done.items():
                cost = completion.statistics
                row["differ"] += completion.tokens != plain.tokens[:length]
                if length < LEAST:
                    continue  # compared, but too short to be timed
                row["arms"][arm] = {
                    "seconds": cost.decode_seconds,
                    "planning": clocks[kind][arm].seconds - before[arm] if arm in before else 0.0,
                    "passes": cost.passes,
                    "guessed": sum(cost.guessed.values()),
                    "accepted": sum(cost.accepted.values()),
                }
    return {"rows": found}


def in_turns(texts: dict[str, Iterator[Delta]], chance: random.Random) -> dict[str, Completion]:
    """Write texts side by side, `TURN` tokens of each at a time, in changing order.

    So whatever the machine does for a while, it does to all of them; with one text after another,
    quotients of two that were written alike differed by 6%. Turns are long enough that few passes
    find the processor's caches as another text left them.
    """
    shown: dict[str, list[Delta]] = {name: [] for name in texts}
    going = list(texts)
    while going:
        chance.shuffle(going)
        for name in list(going):
            some = list(islice(texts[name], TURN))
            shown[name] += some
            if len(some) < TURN:
                going.remove(name)
    return {name: collect(deltas) for name, deltas in shown.items()}


class Clock:
    """Counts the seconds that a planner takes between passes, its drafters included."""

    def __init__(self, planner: Planner) -> None:
        self.seconds = 0.0
        for name in ("draft", "learn"):
            setattr(planner, name, self.counted(getattr(planner, name)))

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def measure_peers(
    model: Model, head: Path, texts: dict[str, list[str]], gguf: Path, source: Path
) -> Callable[[int], Row]:
    """Return a measure: some prompts of each category, answered by each library and by us.

    Seconds for a token, each in a text of its own, which is cut where it loops.
    """
    torch = {"dtype": "float32"}
    setups = {
        name: Setup("transformers", source, THREADS, torch | {"way": way})
        for name, way in TRANSFORMERS.items()
    }
    setups |= {
        f"llama.cpp Q8_0, {way}": Setup("llama-cpp-python", gguf, THREADS, {"way": way})
        for way in ("plain", "lookup")
    }

    def measure(number: int) -> Row:
        found = []
        planners = {"strop, auto": planner_for(model), "strop, head": planner_for(model, str(head))}
        with workers(setups, "assisted_worker.py") as running:
            for category, prompts in texts.items():
                for index, prompt in enumerate(spread(prompts, PEER_PROMPTS)):
                    tokens = prompt_tokens(model.tokenizer, prompt)[:ROOM]
                    row: Row = {"category": category, "prompt": index}
                    for name, worker in running.items():
                        text, times = worker.ask("write", tokens=tokens, most=MOST_TOKENS)
                        row[name] = per_token(text, times)
                    for name, planner in planners.items():
                        row[name] = ours_per_token(model, tokens, planner)
                    found.append(row)
        return {"rows": found}

    return measure


def per_token(text: Sequence[int], times: Sequence[float]) -> float | None:
    """Return the seconds for a token, from the first to where the text loops."""
    length = looped(text)
    return None if length < LEAST else (times[length - 1] - times[0]) / (length - 1)


def ours_per_token(model: Model, tokens: list[int], planner: Planner | None) -> float | None:
    """Return the seconds for a token of ours."""
    text, times = [], []
    for delta in generate(model, tokens, SAMPLINGS["greedy"], planner=planner):
        if delta.token is not None:
            text.append(delta.token)
            times.append(time.perf_counter())
    return per_token(text, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=8, help="of each category")
    parser.add_argument("--head", type=Path, help="a draft head for the 8-bit model; else made")
    parser.add_argument("--output", type=Path, default=Path("runs/assisted"))
    arguments = parser.parse_args()
    if not models.PEERS.exists():
        sys.exit(f"no {models.PEERS}: run  make bench-assisted")
    source = resolve(models.MODEL)
    packs = models.PACKS | {"nested": NESTED}
    files = {name: models.packed(models.MODEL, source, **how) for name, how in packs.items()}
    texts = assisted_prompts.prompts(arguments.prompts)
    head = arguments.head or made_head(files["8-bit"].path, arguments.output)
    code = sorted((models.HERE.parent / "src" / "strop" / "decoding").glob("*.py"))
    code += sorted(Path(__file__).parent.glob("assisted*.py"))
    weights = [file.path / "model.safetensors" for file in files.values()]
    weights += [head / "model.safetensors"]
    used = [sha256_file(path) for path in (Path(str(_native.__file__)), *code, *weights)]
    key = [used, sha256_json(texts), THREADS]
    output = arguments.output / sha256_json(key)[:12]
    rows: list[Row] = []
    for name, file in files.items():
        model = load(str(file.path))
        known_costs(model)
        use = head if name == "8-bit" else None
        for category, some in texts.items():
            measure = partial(measure_some, model, use, category, some)
            for kept in rounds(output / f"{name}-{category}.json", arguments.rounds, measure):
                rows += [row | {"model": name} for row in kept["rows"]]
    gguf = models.gguf(models.MODEL, models.smollm2_gguf(), "Q8_0").path
    eight = load(str(files["8-bit"].path))
    compare = measure_peers(eight, head, texts, gguf, source)
    peers = [
        row for kept in rounds(output / "peers.json", PEER_ROUNDS, compare) for row in kept["rows"]
    ]
    found = claims(rows, peers)
    name = f"assisted_{_native.instruction_set()}"
    result = {
        "name": name,
        "title": f"assisted generation in times of plain generation, {arguments.rounds} rounds, "
        "95% intervals over prompts; looping ends of texts left out",
        "machine": {
            "processor": environment()["processor"],
            "kernels": f"{_native.instruction_set()} kernels",
            "threads": f"{THREADS} threads",
        },
        "model": "SmolLM2-135M-Instruct, which is weak and loops",
        "rows": list(cells(rows)),
        "result": found,
        "environment": environment(),
    }
    write_json(RESULTS / f"{name}.json", result)
    others = result | {
        "name": f"{name}_peers",
        "title": "assisted generation at 8 bits beside other libraries, greedy, "
        f"{PEER_PROMPTS * len(texts)} prompts: medians over prompts, 95% intervals; looping ends "
        "of texts left out",
        "rows": list(peer_cells(peers)),
    }
    write_json(RESULTS / f"{name}_peers.json", others)
    print(table(name), table(f"{name}_peers"), sep="\n\n")
    print("RESULT " + json.dumps({k: round(v, 4) for k, v in found.items()}))


if __name__ == "__main__":
    main()
