"""Memory that malloc keeps for LMDB's copies."""

from __future__ import annotations

import pytest

from casckpt.store import heap
from tests.processes import run

_FAULTS = """
    import resource, sys, threading
    from casckpt.store.heap import _libc, kept_heap

    libc, size, piece = _libc(), 32 << 20, (1 << 20) + 4096

    def batches():
        for _ in range(20):
            held = [libc.malloc(piece) for _ in range(size >> 20)]
            for one in held:
                libc.memset(one, 1, piece)
            for one in held:
                libc.free(one)

    def kept():
        with kept_heap(size, 1 << 20):
            batches()

    libc.memset.argtypes = __import__("ctypes").c_void_p, __import__("ctypes").c_int, __import__("ctypes").c_size_t
    thread = threading.Thread(target=kept if sys.argv[1] == "kept" else batches)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread.start()
    thread.join()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(heap._libc() is None, reason="another malloc")
def test_a_batch_touches_the_pages_of_the_one_before() -> None:
    batch = (32 << 20) // 4096
    assert int(run(_FAULTS, "plain")) > 10 * batch
    assert int(run(_FAULTS, "kept")) < 2 * batch


def test_another_malloc_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(heap, "_libc", lambda: None)
    with heap.kept_heap(1 << 20, 1 << 10):
        pass


def test_without_memory_for_it_there_is_none(monkeypatch) -> None:
    class Empty:
        freed: list[object] = []  # noqa: RUF012

        def malloc(self, size: int) -> None:
            return None

        def free(self, block: object) -> None:
            self.freed.append(block)

    monkeypatch.setattr(heap, "_libc", Empty)
    with heap.kept_heap(1 << 20, 1 << 10):
        pass
    assert set(Empty.freed) == {None}


def test_where_there_is_no_c_library_nothing_is_asked_of_it(monkeypatch) -> None:
    def none(name: object) -> None:
        raise OSError

    heap._libc.cache_clear()
    monkeypatch.setattr(heap.ctypes, "CDLL", none)
    try:
        assert heap._libc() is None
    finally:
        heap._libc.cache_clear()
