"""Processes of several containers on one store, whose numbers clash: each is told, none is taken for another.

Where no process may be put into a name space of its own, they have different numbers, and less is tried.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path

import pytest

from casckpt.errors import StoreBusyError
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
from tests.processes import Program

ALIKE = "less was tried: no process may be put into a name space of its own here"
_ALONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")

WORKER = """
import os, sys
from casckpt.errors import StoreBusyError
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Space
try:
    store = open_store(sys.argv[1])
except StoreBusyError as error:
    print("refused:", error, flush=True)
    sys.exit()
print("open as", os.getpid(), flush=True)
reader = None
for line in sys.stdin:
    if line == "read\\n":
        reader = store.read()
        print("reading", flush=True)
    elif line == "held\\n":
        print(store.held_back(), flush=True)
    elif line == "gc\\n":
        try:
            History(store).gc()
            print("collected", flush=True)
        except StoreBusyError as error:
            print("refused:", error, flush=True)
    else:
        break
if reader is not None:
    reader.close()
store.close()
"""


@cache
def can_be_alone() -> bool:
    """Whether a process can be put into a name space of its own."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_ALONE, "true"], capture_output=True).returncode == 0


class Contained(Program):
    """A program as the first process of a container, if that can be."""

    def __init__(self, source: str, *arguments: object) -> None:
        if not can_be_alone():
            super().__init__(source, *arguments)
            return
        real = subprocess.Popen

        def inside(command: list[str], **how: object) -> subprocess.Popen[str]:
            return real([*_ALONE, *command], **how)

        subprocess.Popen = inside  # type: ignore[assignment, misc]
        try:
            super().__init__(source, *arguments)
        finally:
            subprocess.Popen = real  # type: ignore[misc]

    def kill(self) -> None:
        """SIGKILL for the program itself: `unshare` may take a moment to die, in which the end of its input is seen."""
        if can_be_alone():
            pid = self.process.pid
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        super().kill()


@pytest.fixture
def store(tmp_path):
    made = open_store(tmp_path / "store")
    yield made
    made.close()


def churn(store, times: int) -> int:
    before = store._environment.end
    for number in range(times):
        with store.write(durable=False, room=None) as writer:
            for key in range(10):
                writer.put(Space.CHUNK, b"%d" % key, bytes([number]) * 10_000)
    return store._environment.end - before


def test_the_second_container_with_a_number_is_refused_and_the_first_goes_on(store) -> None:
    with Contained(WORKER, store.path) as first:
        number = first.line()
        first.say("read")
        assert first.line() == "reading"
        with Contained(WORKER, store.path) as second:
            said = second.line()
            if can_be_alone():
                assert number == "open as 1"
                assert "another container has it open under this process's own number" in said
            second.end(None if can_be_alone() else "")
        assert len(store.openers()) == 2
        churn(store, 3)
        held = store.held_back()
        assert held is not None and held.holder.startswith("process ")
        first.end()
    assert store.held_back() is None
    if not can_be_alone():
        pytest.skip(ALIKE)


def test_a_reader_of_a_container_that_was_killed_is_cleared_from_outside(store) -> None:
    churn(store, 3)
    with Contained(WORKER, store.path) as reader:
        reader.line()
        reader.say("read")
        assert reader.line() == "reading"
        reader.kill()
    churn(store, 3)
    assert store.held_back() is None
    assert churn(store, 50) <= 300_000 and churn(store, 50) == 0


def test_a_container_that_is_started_again_under_its_number_says_what_it_left(store) -> None:
    churn(store, 3)
    with Contained(WORKER, store.path) as reader:
        reader.line()
        reader.say("read")
        assert reader.line() == "reading"
        reader.kill()
    churn(store, 3)
    with Contained(WORKER, store.path) as again:
        again.line()
        again.say("read")  # now LMDB takes the old slot for this one's
        assert again.line() == "reading"
        churn(store, 3)
        again.say("held")
        said = again.line()
        if can_be_alone():
            assert "a process 1 that died; this one has its number, and must be closed" in said
        assert store.held_back() is not None
        again.end()
    assert store.held_back() is None
    assert churn(store, 50) <= 300_000 and churn(store, 50) == 0
    if not can_be_alone():
        pytest.skip(ALIKE)


def test_maintenance_and_compact_know_each_other_across_containers(store) -> None:
    with Contained(WORKER, store.path) as other:
        other.line()
        with store.maintenance():
            other.say("gc")
            assert "refused: " in other.line()
        other.say("gc")
        assert other.line() == "collected"
        with pytest.raises(StoreBusyError) as refused:
            store.compact()
        assert len(refused.value.holders) == 1
        other.end()
    store.compact()
