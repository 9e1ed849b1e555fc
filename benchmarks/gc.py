"""gc of a million small chunks while another process commits: seconds, anonymous memory, and how long the other waits.

    python -m benchmarks.gc [--chunks 1000000] [--live 3000] [--json]

The store is made in a temporary folder: a live commit of `--live` chunks of 256 bytes, and one of `--chunks` such
chunks that is abandoned and then collected. gc runs in a process of its own, as `casckpt gc` does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import casckpt

CHUNK = 256


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) << 10


def collect(path: str, results: multiprocessing.Queue) -> None:
    """gc, with the peak of this process's anonymous memory sampled as it goes."""
    from casckpt.history.repository import History
    from casckpt.store.lmdb_store import open_store

    peak = anonymous_bytes()

    def sample(stage: str, done: int, total: int) -> None:
        nonlocal peak
        peak = max(peak, anonymous_bytes())

    with History(open_store(path, create=False)) as history:
        began = time.perf_counter()
        report = history.gc(progress=sample)
        seconds = time.perf_counter() - began
    results.put({"seconds": seconds, "peak_anonymous_bytes": peak, "chunks": report.chunks, "bytes": report.bytes})


def write_on(path: str, stop: multiprocessing.Event, results: multiprocessing.Queue) -> None:
    """Commit small states one after the other; how long each took tells how long it was held up."""
    waits = []
    with casckpt.open(path, branch="writer") as repo:
        repo.commit({"n": np.zeros(1)})  # imports torch
        while not stop.is_set():
            state = {"n": np.random.default_rng().integers(0, 255, 4096, dtype=np.uint8)}
            began = time.perf_counter()
            repo.commit(state)
            waits.append(time.perf_counter() - began)
            time.sleep(0.005)
    results.put(waits)


def run(chunks: int, live: int) -> dict[str, object]:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "store")
        with casckpt.open(path, chunk_size=CHUNK, codec="none") as repo:
            repo.commit({"live": np.arange(live * CHUNK // 8)}, "live")
            dead = np.random.default_rng(0).integers(0, 255, chunks * CHUNK, dtype=np.uint8)
            repo.commit({"dead": dead}, "dead")
            repo.rollback("HEAD~1")
            repo.expire_reflog()
        del dead
        stop, waits_queue, gc_queue = spawn.Event(), spawn.Queue(), spawn.Queue()
        writer = spawn.Process(target=write_on, args=(path, stop, waits_queue))
        writer.start()
        time.sleep(4)  # torch imported, a first round of commits made without gc
        gc = spawn.Process(target=collect, args=(path, gc_queue))
        gc.start()
        found = gc_queue.get()
        gc.join()
        stop.set()
        waits = waits_queue.get()
        writer.join()
        with casckpt.open(path) as repo:
            left = repo.stats()
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        **found,
        "writer_commits": len(waits),
        "writer_median_seconds": statistics.median(waits),
        "writer_longest_seconds": max(waits),
        "chunks_left": left.chunks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=3000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = run(options.chunks, options.live)
    if options.json:
        print(json.dumps(found))
        return
    for name, figure in found.items():
        print(f"{name:26}{figure if not isinstance(figure, float) else round(figure, 3)}")


if __name__ == "__main__":
    main()
