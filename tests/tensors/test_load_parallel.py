"""Several threads load and restore: the same bytes as one, every error in time, and nobody writes afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casckpt
from casckpt.errors import CorruptObjectError, MissingObjectError
from casckpt.history.fetch import Objects
from casckpt.objects.chain import Chain
from casckpt.objects.ids import IdScheme, Kind
from casckpt.store.lmdb_transactions import LmdbReader
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from casckpt.tensors import load as pipeline
from casckpt.tensors.repository import Repository
from tests.equality import assert_same
from tests.processes import PATIENCE, run
from tests.strategies import states


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than cores, and runs of a few chunks: as many orders of events as can be had."""
    monkeypatch.setattr(pipeline, "thread_count", lambda: 5)
    monkeypatch.setattr(pipeline, "_RUN_CHUNKS", 3)


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    with casckpt.open(tmp_path / "store", chunk_size=256, codec="none") as made:
        yield made


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The chunks that are looked up, in order."""
    seen: list[bytes] = []
    frame = Objects.frame

    def watched(self: Objects, kind: Kind, oid: bytes) -> memoryview:
        if kind is Kind.CHUNK:
            seen.append(oid)
        return frame(self, kind, oid)

    monkeypatch.setattr(Objects, "frame", watched)
    return seen


def _chunks(repo: Repository) -> list[bytes]:
    with repo.store.read() as reader:
        return list(reader.keys(Space.CHUNK))


def _damage(repo: Repository, oid: bytes) -> None:
    with repo.store.read() as reader:
        frame = bytearray(reader.get(Space.CHUNK, oid) or b"")
    frame[-1] ^= 1
    with repo.store.write(durable=True, room=None) as writer:
        writer.put(Space.CHUNK, oid, frame)


# -- the same bytes ----------------------------------------------------------------------------------------------------


def _large(draw: st.DrawFn) -> dict[str, Any]:
    """Storages of many chunks, alone and shared: overlapping views, transposed and strided ones, other types."""
    raw = np.random.default_rng(draw(st.integers(0, 3))).integers(0, 250, 40_000, np.uint8)
    base = torch.from_numpy(raw)
    made: dict[str, Any] = {"base": base} if draw(st.booleans()) else {}
    for number in range(draw(st.integers(1, 4))):
        start, size = draw(st.integers(0, 2000)) * 8, draw(st.integers(600, 3000)) * 8
        piece = base[start : start + size].view(draw(st.sampled_from([torch.uint8, torch.int16, torch.float64])))
        if draw(st.booleans()):
            piece = piece.clone()
        if draw(st.booleans()):
            piece = piece[: len(piece) // 4 * 4].view(-1, 4).t()
        if draw(st.booleans()):
            piece = piece[..., ::2]
        made[f"piece{number}"] = piece
    made["array"] = raw[: draw(st.integers(5000, 9000))].copy()
    made["text"] = "é" * draw(st.integers(3000, 4000))
    made["zeros"] = torch.zeros(draw(st.integers(2000, 5000)))
    return made


large = st.composite(_large)()


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    large | states(),
    st.sampled_from([256, 1000, 4096]),
    st.sampled_from(["xxh3_128", "blake3"]),
    st.sampled_from(["none", "fast"]),
)
def test_a_state_comes_back_the_same_whatever_it_is_cut_into(state: Any, size: int, name: str, codec: str) -> None:
    with Repository(MemoryStore(chunk_size=size, hash=name, codec=codec)) as repo:
        repo.commit(state)
        assert_same(repo.load(), state)
        assert_same(repo.load(out=repo.load()), state)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    large, st.lists(st.tuples(st.integers(0, 39_999), st.integers(1, 9000)), max_size=4), st.sampled_from([256, 4096])
)
def test_live_tensors_become_the_same_whatever_is_in_them(
    state: dict[str, Any], written: list[tuple[int, int]], size: int
) -> None:
    with Repository(MemoryStore(chunk_size=size)) as repo:
        repo.commit(state)
        saved = repo.load()
        for item in state.values():
            if isinstance(item, torch.Tensor):
                flat = torch.empty(0, dtype=torch.uint8).set_(item.untyped_storage())
                for start, length in written:
                    flat[start : start + length] ^= 255
        repo.restore(state)
        assert_same(state, saved)


def test_tensors_of_one_chunk_each_are_loaded_together(repo: Repository, looked_up: list[bytes]) -> None:
    state = {str(n): torch.full((1200,), float(n)) for n in range(300)}
    repo.commit(state)
    assert_same(repo.load(), state)
    assert len(looked_up) == 300 * -(-4800 // 256)


# -- only what differs -------------------------------------------------------------------------------------------------


def test_restore_looks_up_the_chunks_that_differ_and_no_other(repo: Repository, looked_up: list[bytes]) -> None:
    live = {"a": torch.arange(64 * 500), "b": torch.arange(64 * 500) + 64 * 500}
    repo.commit(live)
    saved = {key: tensor.clone() for key, tensor in live.items()}
    versions = {key: tensor._version for key, tensor in live.items()}
    looked_up.clear()
    repo.restore(live)
    assert not looked_up
    assert {key: tensor._version for key, tensor in live.items()} == versions
    for at in (0, 31, 32 * 77, 64 * 500 - 1):
        live["b"].data[at] = -1
    before = live["b"]._version
    repo.restore(live)
    assert_same(live, saved)
    assert len(looked_up) == len(set(looked_up)) == 3, "the first two are in one chunk"
    assert live["a"]._version == versions["a"]
    assert live["b"]._version > before


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("into", ["fresh memory", "reused memory", "live tensors"])
def test_one_damaged_chunk_among_thousands_is_named(repo: Repository, into: str) -> None:
    state = {str(n): torch.randint(0, 99, (8000,)) for n in range(20)}
    repo.commit(state)
    chunks = _chunks(repo)
    assert len(chunks) == 20 * 250
    _damage(repo, chunks[2500])
    live = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    load: Callable[[], Any] = {
        "fresh memory": repo.load,
        "reused memory": lambda: repo.load(out=live),
        "live tensors": lambda: repo.restore(live),
    }[into]
    with pytest.raises(CorruptObjectError, match=chunks[2500].hex()):
        load()
    if into == "live tensors":
        for key, tensor in live.items():
            assert tensor._version == (1 if tensor.any() else 0), f"{key}: autograd is told of what was written"
    _damage(repo, chunks[2500])  # the same bit once more: it is whole again
    load()
    assert_same(repo.load(), state)


def test_an_error_is_told_once_nobody_writes_any_more(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit({str(n): torch.randint(0, 99, (8000,)) for n in range(20)})
    _damage(repo, repo.open_tensor("HEAD", "0")._stored.ids()[0])  # type: ignore[union-attr]
    writing, failed, go_on = threading.Event(), threading.Event(), threading.Event()
    decode = pipeline.decode_into

    def held_up(scheme: IdScheme, chain: Chain, out: memoryview) -> None:
        try:
            decode(scheme, chain, out)
        except CorruptObjectError:
            assert writing.wait(PATIENCE)
            failed.set()
            raise
        writing.set()
        assert go_on.wait(PATIENCE)

    monkeypatch.setattr(pipeline, "decode_into", held_up)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(repo.load)
        assert failed.wait(PATIENCE)
        assert not wait([loading], 0.1).done
        go_on.set()
        with pytest.raises(CorruptObjectError):
            loading.result(PATIENCE)


def test_a_damaged_node_is_found_before_anything_live_is_written(repo: Repository) -> None:
    state = {str(n): torch.randint(0, 99, (8000,)) for n in range(4)}
    repo.commit(state)
    with repo.store.read() as reader:
        nodes = list(reader.keys(Space.NODE))
    with repo.store.write(durable=True, room=None) as writer:
        writer.delete(Space.NODE, nodes[2])
    live = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    with pytest.raises(MissingObjectError, match=nodes[2].hex()):
        repo.restore(live)
    assert not any(tensor.any() for tensor in live.values())


@pytest.mark.parametrize("at", [0, 1, 40, 400])
def test_an_interrupt_ends_all_threads_and_the_transaction(
    repo: Repository, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    state = {str(n): torch.randint(0, 99, (8000,)) for n in range(4)}
    repo.commit(state)
    frame, left = Objects.frame, [at]

    def interrupted(self: Objects, kind: Kind, oid: bytes) -> memoryview:
        left[0] -= kind is Kind.CHUNK
        if left[0] < 0:
            raise KeyboardInterrupt
        return frame(self, kind, oid)

    monkeypatch.setattr(Objects, "frame", interrupted)
    live = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    for load in (repo.load, lambda: repo.restore(live)):
        left[0] = at
        with pytest.raises(KeyboardInterrupt):
            load()
            assert not repo.store._environment.gate.live  # type: ignore[attr-defined]
    monkeypatch.undo()
    repo.compact()
    assert_same(repo.restore(live), state)


_INTERRUPTED = """
    import signal, sys, time, torch, casckpt
    from casckpt.tensors import load
    from tests.store.interrupts import interrupt_in, raise_interrupt
    load.thread_count = lambda: 3
    signal.signal(signal.SIGALRM, raise_interrupt)
    sys.unraisablehook = lambda _: None  # one that comes within a __del__ is told of there, and lost
    state = {str(n): torch.randint(0, 99, (40_000,)) for n in range(8)}
    live = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    with casckpt.open(sys.argv[1], chunk_size=4096) as repo:
        repo.commit(state)
        began = time.monotonic()
        repo.load(out=live)
        lasts = time.monotonic() - began
        came = 0
        for number in range(40):
            try:
                interrupt_in(max(1e-5, lasts * number / 30))
                repo.load(out=live) if number % 2 else repo.restore(live)
                interrupt_in(0)
            except KeyboardInterrupt:
                came += 1
            assert repo.store._environment.gate.live == set()
            for tensor in live.values():
                tensor.neg_()
        assert came
        repo.restore(live)
        assert all(torch.equal(live[key], state[key]) for key in state)
        repo.compact()
    print("sound")
"""


def test_a_real_interrupt_at_any_moment_leaves_the_store_usable(tmp_path: Path) -> None:
    assert run(_INTERRUPTED, tmp_path / "store").strip() == "sound"


# -- beside others -----------------------------------------------------------------------------------------------------


def test_all_of_a_load_is_one_transaction_used_by_one_thread_at_a_time(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {str(n): torch.randint(0, 99, (8000,)) for n in range(4)}
    repo.commit(state)
    used: set[int] = set()
    threads: set[int] = set()
    busy = threading.Lock()
    get = LmdbReader.get

    def watched(self: LmdbReader, space: Space, key: bytes) -> memoryview | None:
        assert busy.acquire(blocking=False), "two threads in one transaction"
        try:
            used.add(id(self._transaction))
            threads.add(threading.get_ident())
            return get(self, space, key)
        finally:
            busy.release()

    met, both = threading.local(), threading.Barrier(2)
    decode = pipeline.decode_into

    def together(scheme: IdScheme, chain: Chain, out: memoryview) -> None:
        if not hasattr(met, "other"):  # none goes on to its second chunk before another has come to its first
            met.other = both.wait(PATIENCE)
        decode(scheme, chain, out)

    monkeypatch.setattr(pipeline, "decode_into", together)
    monkeypatch.setattr(pipeline, "thread_count", lambda: 2)
    monkeypatch.setattr(LmdbReader, "get", watched)
    assert_same(repo.load(), state)
    assert len(used) == 1
    assert len(threads) > 1


def test_what_runs_within_a_load_cannot_wait_for_its_own_transaction(tmp_path: Path) -> None:
    assert (
        run(
            """
            import sys, torch, casckpt
            from casckpt.errors import StoreBusyError
            from casckpt.tensors import load
            load.thread_count = lambda: 5
            class Compacting: pass
            def decode(state):
                try:
                    repo.compact()
                except StoreBusyError as error:
                    print("refused:", error.holders)
                return Compacting()
            casckpt.register(Compacting, encode=lambda item: 1, decode=decode)
            with casckpt.open(sys.argv[1], chunk_size=256) as repo:
                repo.commit({"w": torch.rand(900_000), "last": Compacting()})
                repo.load()
            """,
            tmp_path / "store",
        ).strip()
        == "refused: ('this thread',)"
    )


# -- memory ------------------------------------------------------------------------------------------------------------

_LIMITED = """
    import resource, sys, torch, casckpt
    MIB = 1 << 20
    state = {"a": torch.ones(64 * MIB // 4), "b": [torch.ones(8 * MIB // 4) for _ in range(24)]}  # 256 MiB
    if sys.argv[2] == "strided":
        state = {key: torch.ones(2 * MIB, 8)[:, ::2] for key in "abcd"}  # 32 MiB each, of 64
    with casckpt.open(sys.argv[1]) as repo:
        repo.commit(state)
        tensors = [one for item in state.values() for one in (item if isinstance(item, list) else [item])]
        for tensor in tensors:
            tensor.zero_()
        with open("/proc/self/status") as status:
            held = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
        room = 170 * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (held * 1024 + room, resource.RLIM_INFINITY))
        try:
            repo.load()
            print("loaded")
        except MemoryError:
            print("no second state")
        if sys.argv[2] == "device":
            repo.load(device="meta")
        else:
            repo.restore(state)
            assert all(bool((tensor == 1).all()) for tensor in tensors)
    print("done")
"""


@pytest.mark.parametrize("kind", ["whole", "strided", "device"])
def test_there_is_never_a_second_state_in_memory(tmp_path: Path, kind: str) -> None:
    said = run(_LIMITED, tmp_path / "store", kind).split("\n")
    assert said[:2] == ["no second state", "done"]
