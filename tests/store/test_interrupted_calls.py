"""An interrupt at any call within what is done with a store leaves no transaction under way, and nobody locked out.

Python runs signal handlers as a function begins, and after a call into C: there the interrupt is raised, at one such
place after the other.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import run

INTERRUPT_EVERY_CALL = """
import gc, os, sys
from concurrent.futures import ThreadPoolExecutor
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space

store = open_store(sys.argv[1])
left = 0

def trace(frame, event, arg):
    global left
    if event in ("call", "c_return") and any(name in frame.f_code.co_filename for name in ("casckpt", "contextlib")):
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

def write(number):
    with store.write(durable=True, room=1) as writer:
        writer.put(Space.REF, b"key", b"%d" % number)
        writer.put(Space.CHUNK, b"%d" % (number % 3), b"%d" % number * 9000)
        list(writer.keys(Space.REF))

def read(number):
    with store.read() as reader:
        reader.get(Space.REF, b"key")
        reader.count(Space.REF)
        list(reader.items(Space.REF))

def maintain(number):
    with store.maintenance():
        pass

WORK = {
    "write": write,
    "read": read,
    "maintain": maintain,
    "size": lambda number: store.size(),
    "held_back": lambda number: store.held_back(),
}

def others(number):
    with store.write(durable=False, room=None) as writer:
        writer.put(Space.META, b"of others", b"%d" % number)
    with store.read() as reader:
        assert reader.get(Space.META, b"of others") == b"%d" % number
    maintain(number)

work, seen, pool = WORK[sys.argv[2]], 0, ThreadPoolExecutor(1)
sys.unraisablehook = lambda _: None  # in a __del__ it goes no further
while True:
    left = seen + 1
    sys.setprofile(trace)
    try:
        work(seen)
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    if left > 0:
        break
    seen += 1
    gc.collect()
    if store._environment.gate.live:
        print("left behind by an interrupt at call", seen, flush=True)
        os._exit(1)
    pool.submit(others, seen).result(60)
store.close()
print(seen)
"""


@pytest.mark.parametrize(
    ("what", "least"), [("write", 120), ("read", 40), ("maintain", 20), ("size", 40), ("held_back", 30)]
)
def test_an_interrupt_at_any_call_leaves_nothing_under_way(tmp_path: Path, what: str, least: int) -> None:
    assert int(run(INTERRUPT_EVERY_CALL, tmp_path / "store", what)) > least
