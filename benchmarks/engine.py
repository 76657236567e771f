"""Strop's engine beside llama.cpp and transformers, in turns, on the same tokens and threads.

Needs .venv-peers, which `make bench-engine` makes, and $STROP_DATA/wikitext2_valid.txt. Rounds are
kept in runs/engine, so that it can be stopped. Writes benchmarks/results/engine*.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import engine_models as models
import engine_random
from engine_models import File
from engine_process import CORES, THREADS, Row, Setup, Worker, rounds, spinning, workers
from engine_report import report
from strop import _native
from strop.console import say
from strop.data import read_json, read_text, sha256_file, sha256_json, write_json
from strop.evaluation.text import cut
from strop.models import resolve
from strop.models.cache import fingerprint
from strop.models.tokenizer import Tokenizer

PROMPT, DECODED = 128, 64  # tokens
PREFILLS = (128, 512, 2048)
SIZES = list(range(1, 17))  # tokens verified in one pass
CHUNKS = {"tokens": 12288, "chunk": 512}  # of benchmarks/quality.py

#: What llama.cpp lets its user choose; the fastest is taken, for each file and measure
OPTIONS = [
    {"flash_attention": flash, "ubatch": ubatch, "repack": repack}
    for flash, ubatch, repack in product(("on", "off"), (128, 512), (True, False))
]
OPTION_ROUNDS = 5


class Benchmark:
    """The files, the tokens, and where the rounds are kept."""

    def __init__(self, output: Path, count: int) -> None:
        self.count = count
        self.source = resolve(models.MODEL)
        published = models.smollm2_gguf()
        self.ours = {
            name: models.packed(models.MODEL, self.source, **how)
            for name, how in models.PACKS.items()
        }
        self.theirs = {t: models.gguf(models.MODEL, published, t) for t in models.GGUF_TYPES}
        text = read_text(Path(os.environ["STROP_DATA"]) / "wikitext2_valid.txt")
        tokenizer = Tokenizer.from_directory(self.source)
        self.chunks = cut(tokenizer, text, **CHUNKS)
        self.tokens = [token for chunk in self.chunks for token in chunk]
        version = [str(models.PEERS), "-c", "import llama_cpp; print(llama_cpp.__version__)"]
        self.peer = subprocess.run(version, check=True, capture_output=True, text=True).stdout
        binary = Path(str(_native.__file__))
        packs = [file.path / "model.safetensors" for file in self.ours.values()]
        key = [sha256_file(binary), fingerprint(packs), self.peer, sha256_json(self.tokens)]
        self.output = output / sha256_json(key)[:12]
        self.machine = output / "machine"
        source = models.HERE / "engine_machine.cpp"
        flags = ["-std=c++20", "-O3", "-march=native", "-pthread"]
        output.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, *flags, str(source), "-o", str(self.machine)], check=True)

    def setups(self, use: str, threads: int = THREADS, **options: Any) -> dict[str, Setup]:
        """Return all engines on SmolLM2; llama.cpp with the options that are best for `use`."""
        chosen = self.options()
        ours = {
            f"strop {name}": Setup("strop", file.path, threads) for name, file in self.ours.items()
        }
        theirs = {
            f"llama.cpp {name}": Setup("llama.cpp", file.path, threads, chosen[name][use] | options)
            for name, file in self.theirs.items()
        }
        torch = {
            f"transformers {dtype}": Setup("transformers", self.source, threads, {"dtype": dtype})
            for dtype in ("float32", "bfloat16")
        }
        return ours | theirs | torch

    def options(self) -> dict[str, dict[str, Any]]:
        """Return the options with which llama.cpp is fastest: file -> use -> options."""
        path = self.output / "options.json"
        if path.exists():
            return read_json(path)
        result = {}
        for name, file in self.theirs.items():
            setups = {
                str(index): Setup("llama.cpp", file.path, THREADS, options)
                for index, options in enumerate(OPTIONS)
            }
            with workers(setups) as running:

                def measure(_: int, running: dict[str, Worker] = running) -> Row:
                    return {
                        index: {"decode": self.decode(w), "prefill": self.prefill(w, 512)}
                        for index, w in running.items()
                    }

                rows = rounds(self.output / f"options-{name}.json", OPTION_ROUNDS, measure)
            result[name] = {
                use: min(
                    zip(setups, OPTIONS, strict=True),
                    key=lambda pair, use=use: statistics.median(row[pair[0]][use] for row in rows),
                )[1]
                for use in ("decode", "prefill")
            }
        write_json(path, result)
        return result

    def decode(self, worker: Worker, prompt: int = PROMPT, count: int = DECODED) -> float:
        """Return the seconds per token."""
        tokens = self.tokens[: prompt + count]
        return worker.ask("decode", prompt=tokens[:prompt], tokens=tokens[prompt:]) / count

    def prefill(self, worker: Worker, count: int) -> float:
        """Return the seconds per token."""
        return worker.ask("prefill", tokens=self.tokens[:count]) / count

    def verify(self, worker: Worker) -> list[float]:
        """Return the seconds of a pass over each number of tokens in `SIZES`."""
        tokens = self.tokens[PROMPT : PROMPT + max(SIZES)]
        prompt = self.tokens[:PROMPT]
        return worker.ask("verify", prompt=prompt, tokens=tokens, sizes=SIZES, repeats=3)

    def limit(self, *arguments: object) -> float:
        """Return a limit of the machine, see engine_machine.cpp."""
        command = [str(self.machine), *map(str, arguments), str(THREADS)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    def quality(self) -> dict[str, list[float]]:
        """Return the loss of each chunk of text, in each engine's own arithmetic."""
        path = self.output / "quality.json"
        found: dict[str, list[float]] = read_json(path) if path.exists() else {}
        for name, setup in self.setups("prefill").items():
            if name not in found and "bfloat16" not in name:
                with workers({name: setup}) as running:
                    found[name] = running[name].ask("losses", chunks=self.chunks)
                write_json(path, found)
                say(f"perplexity of {name}: done")
        return found

    def speed(self) -> list[Row]:
        """Return seconds of decoding, prefill and passes over tokens; limits of the machine."""
        decoding, prefilling = self.setups("decode"), self.setups("prefill")
        setups = decoding | {f"{name} prefill": setup for name, setup in prefilling.items()}
        with workers(setups) as running:

            def measure(number: int) -> Row:
                names = rotated(list(decoding), number)
                row: Row = {"decode": {name: self.decode(running[name]) for name in names}}
                for count in PREFILLS:
                    row[f"prefill {count}"] = {
                        name: self.prefill(running[f"{name} prefill"], count) for name in names
                    }
                row["verify"] = {name: self.verify(running[name]) for name in names}
                row["bandwidth"] = {
                    f"strop {name}": self.limit("read", file.bytes)
                    for name, file in self.ours.items()
                }
                row["dot products"] = self.limit("dot")
                return row

            return rounds(self.output / "speed.json", self.count, measure)

    def cold(self) -> list[Row]:
        """Return seconds from starting a process to its first token, and its peak memory."""
        setups = self.setups("decode", length=512)

        def measure(number: int) -> Row:
            row: Row = {"first token": {}, "peak memory": {}}
            for name in rotated(list(setups), number):
                start = time.monotonic()
                with workers({name: setups[name]}) as running:
                    running[name].ask("prefill", tokens=self.tokens[:16])
                    row["first token"][name] = time.monotonic() - start
                    self.decode(running[name])
                    row["peak memory"][name] = running[name].ask("peak_memory")
            return row

        return rounds(self.output / "cold.json", self.count, measure)

    def contended(self) -> list[Row]:
        """Return seconds per token on one thread alone, and on all beside a process that spins."""
        names = ("strop small", "strop 8-bit", "llama.cpp Q4_0", "llama.cpp Q8_0")
        alone, both = self.setups("decode", 1), self.setups("decode")
        setups = {f"{name} alone": alone[name] for name in names} | {n: both[n] for n in names}
        with workers(setups) as running:

            def measure(number: int) -> Row:
                row: Row = {"alone": {}, "contended": {}}
                for name in rotated(list(names), number):
                    row["alone"][name] = self.decode(running[f"{name} alone"])
                    with spinning(CORES[number % len(CORES)]):
                        row["contended"][name] = self.decode(running[name])
                return row

            return rounds(self.output / "contended.json", self.count, measure)

    def larger(self, size: str) -> tuple[dict[str, File], list[Row]]:
        """Return the files of a random model, and its seconds per token beside the bandwidth."""
        files = engine_random.random_files(size)
        chosen = self.options()
        setups = {}
        for name, file in files.items():
            engine, kind = name.split()
            options = chosen[kind]["decode"] if kind in chosen else {}
            setups[name] = Setup(engine, file.path, THREADS, options)
        with workers(setups) as running:

            def measure(number: int) -> Row:
                names = rotated(list(setups), number)
                return {
                    "decode": {name: self.decode(running[name], 32, 16) for name in names},
                    "bandwidth": {
                        name: self.limit("read", file.bytes)
                        for name, file in files.items()
                        if name.startswith("strop")
                    },
                }

            rows = rounds(self.output / f"larger-{size}.json", self.count, measure)
        return files, rows


def rotated(names: list[str], number: int) -> list[str]:
    """Return the names in an order that changes with the round."""
    start = number % len(names)
    return names[start:] + names[:start]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("runs/engine"))
    arguments = parser.parse_args()
    if not models.PEERS.exists():
        sys.exit(f"no {models.PEERS}: run  make bench-engine")
    benchmark = Benchmark(arguments.output, arguments.rounds)
    report(
        benchmark.ours | benchmark.theirs,
        benchmark.quality(),
        benchmark.speed(),
        benchmark.cold(),
        benchmark.contended(),
        {size: benchmark.larger(size) for size in engine_random.SHAPES},
    )


if __name__ == "__main__":
    main()
