"""How small and how fast: coders take turns on one stream, with one thread and with two; each gives back what it got.

Memory that is freed stays with the process while this is measured, so that no coder pays for the kernel's clearing.
With one thread the processor's time is taken too: on a machine that others use as well it says more than the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.coding.coders import Auto, Coder, Packed, for_stream
from benchmarks.coding.streams import Stream
from benchmarks.measure import SHARE, Series, alternate
from benchmarks.memory import kept
from casckpt.objects.chooser import choose
from casckpt.objects.planes import words_in

SPEED = "GB/s"
THREADS = (1, 2)
DIRECTIONS = ("encode", "decode")
_MOST_PASSES = 12


class NotGivenBackError(RuntimeError):
    """A coder decoded something else than it was given."""


@dataclass(frozen=True, slots=True)
class Coded:
    """What a coder made of a stream. ratio: raw bytes by stored ones. kinds: chunks by how they were coded.

    speeds: "encode 1", "decode 2" and so on, by the clock, the number being of threads; "encode cpu" and "decode cpu",
    by the time of one processor.
    """

    ratio: float
    speeds: dict[str, Series] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        speeds = {name: list(series.values) for name, series in self.speeds.items()}
        return {"ratio": self.ratio, "speeds": speeds, "kinds": self.kinds}


@dataclass(frozen=True, slots=True)
class Measured:
    """One stream. coded: by coder. choosing: share of casckpt's time of coding that goes into the choice of how."""

    name: str
    size: int
    coded: dict[str, Coded]
    choosing: Series

    def to_dict(self) -> dict[str, Any]:
        coded = {name: one.to_dict() for name, one in self.coded.items()}
        return {"bytes": self.size, "coded": coded, "choosing": list(self.choosing.values)}


def measure(stream: Stream, repeats: int, seconds: float) -> Measured:
    """A stream by all coders that have a use for it. seconds: about how long a turn is to take, at least one pass.

    Raises:
        NotGivenBackError
    """
    kinds = for_stream(stream.back is not None)
    with kept(), ThreadPoolExecutor(max(THREADS)) as pool:
        found: dict[str, Coded] = {}
        alone: dict[str, _Bench] = {}
        turns: dict[str, Callable[[], float]] = {}
        for kind in kinds:
            first = _Bench(kind(1), stream, 1, pool, seconds)
            alone[kind.name] = first
            found[kind.name] = Coded(stream.size / first.packed_size, {}, first.coder.kinds(first.packed))
            for threads in THREADS:
                bench = first if threads == 1 else _Bench(kind(threads), stream, threads, pool, seconds)
                turns |= {f"{kind.name}/encode {threads}": bench.encode, f"{kind.name}/decode {threads}": bench.decode}
        turns["choosing"] = lambda: _choosing_seconds(stream)
        series = alternate(turns, repeats=repeats, unit=SPEED)
        for name, one in series.items():
            coder, _, what = name.partition("/")
            if what:
                found[coder].speeds[what] = one
        for name, bench in alone.items():
            for what, values in bench.of_processor.items():
                found[name].speeds[f"{what} cpu"] = Series(SPEED, tuple(values[-repeats:]))
    mine = found[Auto.name].speeds["encode cpu"].values
    shares = (taken * speed * 1e9 / stream.size for taken, speed in zip(series["choosing"].values, mine, strict=True))
    return Measured(stream.name, stream.size, found, Series(SHARE, tuple(shares)))


class _Bench:
    """A coder on a stream. encode, decode: one turn each, as GB/s of the stream's raw bytes. of_processor: the same by
    the time that the process had processors, of each turn."""

    def __init__(self, coder: Coder, stream: Stream, threads: int, pool: ThreadPoolExecutor, seconds: float) -> None:
        self.coder = coder
        self._pieces = stream.pieces
        self._size = stream.size
        self.of_processor: dict[str, list[float]] = {what: [] for what in DIRECTIONS}
        self._workers = 1 if coder.own_threads else threads
        self._pool = pool
        self._outs = [
            [np.zeros(len(piece.raw), np.uint8).data for piece in stream.pieces] for _ in range(self._workers)
        ]
        began = time.perf_counter()
        self.packed: list[Packed] = [coder.encode(piece, coder.ready(piece)) for piece in stream.pieces]
        self._passes = min(_MOST_PASSES, max(1, round(seconds / (time.perf_counter() - began))))
        for piece, packed, out in zip(self._pieces, self.packed, self._outs[0], strict=True):
            if memoryview(coder.decode(piece, packed, out)).cast("B") != piece.raw:
                raise NotGivenBackError(f"{coder.name} did not give back a chunk of {stream.name}")

    @property
    def packed_size(self) -> int:
        return sum(len(packed) for packed in self.packed)

    def encode(self) -> float:
        jobs = [
            (index, self.coder.ready(piece)) for _ in range(self._passes) for index, piece in enumerate(self._pieces)
        ]

        def work(job: tuple[int, Any], worker: int) -> None:
            index, ready = job
            self.coder.encode(self._pieces[index], ready)

        return self._run("encode", jobs, work)

    def decode(self) -> float:
        def work(index: int, worker: int) -> None:
            self.coder.decode(self._pieces[index], self.packed[index], self._outs[worker][index])

        return self._run("decode", list(range(len(self._pieces))) * self._passes, work)

    def _run(self, what: str, jobs: list[Any], work: Callable[[Any, int], None]) -> float:
        """GB/s of all jobs; threads take the next one whenever they are done with one."""

        def drain(worker: int) -> None:
            for job in waiting:
                work(job, worker)

        waiting = iter(jobs)
        began, used = time.perf_counter(), time.process_time()
        if self._workers == 1:
            drain(0)
        else:
            for done in [self._pool.submit(drain, worker) for worker in range(self._workers)]:
                done.result()
        taken, used = time.perf_counter() - began, time.process_time() - used
        self.of_processor[what].append(self._size * self._passes / max(used, 1e-9) / 1e9)
        return self._size * self._passes / taken / 1e9


def _choosing_seconds(stream: Stream) -> float:
    jobs = [
        (words_in(piece.raw, piece.words.size), words_in(piece.base.raw, piece.words.size) if piece.base else None)
        for piece in stream.pieces
    ]
    began = time.process_time()
    for words, base in jobs:
        choose(words, base, floating=True)
    return time.process_time() - began
