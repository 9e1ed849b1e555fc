"""How much memory of its own a process takes at most, above what it had, to read a state or a part of one.

Measured in a process of its own: RssAnon, so that mapped pages of the store do not count, every millisecond.
"""

from __future__ import annotations

import pytest
import torch

import casckpt
from casckpt.limits import MIB
from casckpt.tensors.workers import thread_count
from tests.processes import run

TABLE, MOMENTS = 32 * MIB, 48 * MIB
# Beside what is asked for: two chunks for each thread, records, and huge pages that are begun.
BESIDE = (4 + 2 * thread_count()) * MIB

CASES = {
    # what is done, how much memory its result takes
    "repo.load()": TABLE + MOMENTS,
    "repo.load(paths='model.*')": TABLE,
    "repo.load(paths='model.bias')": 0,
    "repo.load(out=state)": 0,
    "repo.restore(state)": 0,
    "repo.restore(changed)": 0,
    "repo.restore({'model': state['model']})": 0,
    "table[1000:3000]": 2000 * 4096,
    "table[:, :512]": TABLE // 2,
    "table[::4]": TABLE // 4,
    "table[:, 5]": TABLE // 1024,
}

MEASURED = """
    import ctypes, gc, json, sys, threading
    from pathlib import Path
    import torch
    import casckpt

    def held():
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["RssAnon"].split()[0]) << 10

    def taken(repo, what):
        state = repo.load() if "state" in what or "changed" in what else None
        changed = state
        if "changed" in what:
            for tensor in (*changed["model"].values(), *changed["optimizer"].values()):
                tensor[::3] += 1
        table = repo.open_tensor("HEAD", "model.table")
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        before = peak = held()
        ended = threading.Event()

        def sample():
            nonlocal peak
            while not ended.wait(0.001):
                peak = max(peak, held())

        sampler = threading.Thread(target=sample)
        sampler.start()
        found = eval(what)
        ended.set()
        sampler.join()
        return max(peak, held()) - before

    with casckpt.open(sys.argv[1]) as repo:
        repo.restore(repo.load(paths="model.bias"))  # what is imported, and made once
        repo.open_tensor("HEAD", "model.table")[:7, ::3]
        for what in sys.argv[2:]:
            print(taken(repo, what))
"""


@pytest.mark.parametrize("codec", ["none", "fast"])
def test_what_is_read_takes_the_memory_of_what_it_gives_and_little_beside(codec, tmp_path) -> None:
    state = {
        "model": {"table": torch.arange(TABLE // 4, dtype=torch.int32).view(-1, 1024), "bias": torch.ones(1024)},
        "optimizer": {f"moment.{number}": torch.full((MOMENTS // 16,), number / 7) for number in range(4)},
    }
    with casckpt.open(tmp_path / "store", codec=codec) as repo:
        repo.commit(state)
    lines = run(MEASURED, tmp_path / "store", *CASES).split()
    for (what, wanted), taken in zip(CASES.items(), map(int, lines), strict=True):
        assert wanted * 0.9 - MIB <= taken < wanted + BESIDE, what
