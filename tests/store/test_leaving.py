"""Whoever is interrupted while he opens or leaves a store opens it again, and leaves it: nothing shut is given out."""

from __future__ import annotations

from pathlib import Path

import pytest

from casckpt.store import environment, registry
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.processes import run

INTERRUPT_EVERY_CALL = """
import sys
from pathlib import Path
from casckpt.store import registry
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space

path, again = Path(sys.argv[1]), sys.argv[2] == "again"
left = 0

def trace(frame, event, arg):
    global left
    # where Python runs signal handlers: as a function begins, and after a call into C
    if event in ("call", "c_return") and "casckpt" in frame.f_code.co_filename:
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

def interrupted_close(store, after):
    global left
    left = after
    sys.setprofile(trace)
    try:
        store.close()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return left <= 0

seen = 0
sys.unraisablehook = lambda _: None  # in a __del__ it goes no further
open_store(path).close()
while True:
    store = open_store(path)
    came = interrupted_close(store, seen + 1)
    if not came:
        break
    seen += 1
    if again:
        store.close()
        assert not registry._by_file and not list((path / "openers").iterdir()), seen
    other = open_store(path)
    with other.write(durable=True, room=None) as writer:
        writer.put(Space.REF, b"key", b"%d" % seen)
    store.close()
    other.close()
    assert not registry._by_file and not list((path / "openers").iterdir()), seen
print(seen)
"""


INTERRUPT_EVERY_CALL_OF_AN_OPENING = """
import sys
from pathlib import Path
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space

path = Path(sys.argv[1])
left = 0

def trace(frame, event, arg):
    global left
    name = frame.f_code.co_filename
    if event in ("call", "c_return") and ("casckpt" in name or "contextlib" in name):
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

seen = 0
sys.unraisablehook = lambda _: None  # in a __del__ it goes no further
open_store(path).close()
while True:
    left = seen + 1
    sys.setprofile(trace)
    try:
        store = open_store(path)
    except KeyboardInterrupt:
        sys.setprofile(None)
        open_store(path).close()  # while the interrupt is handled, all that its frames hold is held
    else:
        sys.setprofile(None)
        store.close()
        if left > 0:
            break
    seen += 1
    other = open_store(path)
    with other.write(durable=False, room=None) as writer:
        writer.put(Space.REF, b"key", b"%d" % seen)
    other.close()
    assert not list((path / "openers").iterdir()), seen
print(seen)
"""


def test_an_interrupt_at_any_call_of_an_opening_leaves_a_store_that_opens(tmp_path: Path) -> None:
    """LMDB's lock would fall with a second opening of a file that nobody knows to be open."""
    assert int(run(INTERRUPT_EVERY_CALL_OF_AN_OPENING, tmp_path / "store")) > 300
    open_store(tmp_path / "store", create=False).close()


@pytest.mark.parametrize("then", ["again", "opened"])
def test_an_interrupt_at_any_call_of_a_close_leaves_a_store_that_opens(tmp_path: Path, then: str) -> None:
    assert int(run(INTERRUPT_EVERY_CALL, tmp_path / "store", then)) > 40
    store = open_store(tmp_path / "store", create=False)
    with store.read() as reader:
        assert reader.get(Space.REF, b"key") is not None
    store.close()


def test_an_interrupt_while_it_waits_for_the_next_tick_leaves_nothing_of_the_store_behind(
    tmp_path, monkeypatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    store = open_store(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(environment, "note_good", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.close()
    # other tests of this process may have stores of their own
    assert tmp_path / "store" not in [one.path for one in registry._by_file.values()]
    assert not list((tmp_path / "store/openers").iterdir())
    open_store(tmp_path / "store").close()
