"""How fast tensors are quantized, against copying them in memory.

Copying and quantizing take turns on the same float32 matrix, on as many threads as the process has
processors, copying also on one, if that is faster. The figure is bytes of float32 read per second.
Writes benchmarks/results/quantize.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from strop import _native
from strop.blockfp import FORMATS, dequantize, quantize
from strop.blockfp.tensor import threads
from strop.data import write_json
from strop.models.environment import environment

RESULT = Path(__file__).parent / "results" / "quantize.json"
FLOOR = 0.3  # of the speed of copying


def copy(target: np.ndarray, source: np.ndarray, parts: int) -> None:
    """Copy on several threads; NumPy releases the lock while it copies."""
    rows = np.linspace(0, len(source), parts + 1, dtype=int)
    workers = [
        threading.Thread(target=np.copyto, args=(target[a:b], source[a:b]))
        for a, b in itertools.pairwise(rows)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--rows", type=int, default=8192)
    arguments = parser.parse_args()
    x = np.random.default_rng(0).standard_normal((arguments.rows, 4096)).astype(np.float32)
    target = np.empty_like(x)
    copy(target, x, 1)  # touch the pages
    rows = []
    for name, format in FORMATS.items():
        tensor = quantize(x, format)
        copies: dict[int, list[float]] = {n: [] for n in {1, threads()}}
        ours = []
        for _ in range(arguments.runs):
            for count, times in copies.items():
                times.append(seconds(lambda count=count: copy(target, x, count)))
            ours.append(seconds(lambda format=format: quantize(x, format)))
        # Apart, for it takes 134 MB of fresh memory from the system every time.
        back = [seconds(lambda tensor=tensor: dequantize(tensor)) for _ in range(arguments.runs)]
        # The faster way to copy is the one to compare with: one thread can fill the bus.
        fastest = min(copies.values(), key=statistics.median)
        ratio = statistics.median(c / o for c, o in zip(fastest, ours, strict=True))
        rows.append(
            {
                "format": name,
                "quantize GB/s": x.nbytes / statistics.median(ours) / 1e9,
                "dequantize GB/s": x.nbytes / statistics.median(back) / 1e9,
                "copy GB/s": x.nbytes / statistics.median(fastest) / 1e9,
                "of copy speed": ratio,
            }
        )
        print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()})
    result = {
        "name": "quantize",
        "title": f"speed of quantizing float32, medians of {arguments.runs} alternating runs",
        "machine": {
            "processor": environment()["processor"],
            "kernels": f"{_native.instruction_set()} kernels",
            "threads": f"{threads()} threads",
        },
        "rows": rows,
    }
    write_json(RESULT, result)
    slowest = min(rows, key=lambda row: row["of copy speed"])
    summary = {
        "slowest": slowest["format"],
        "slowest_of_copy": slowest["of copy speed"],
        **{row["format"]: row["of copy speed"] for row in rows if row["format"].startswith("bfp")},
        "floor": FLOOR,
    }
    print("RESULT " + json.dumps(summary))


if __name__ == "__main__":
    main()
