"""A stopped reader keeps free pages from use: whoever looks at the file is told who it is, and how much."""

from __future__ import annotations

import os
import signal

import pytest

from casckpt.history.repository import History
from casckpt.store.protocol import Space
from tests.cli.conftest import Casckpt
from tests.processes import Program

READER = """
import sys
from casckpt.store.lmdb_store import open_store
store = open_store(sys.argv[1])
with store.read():
    print("reading", flush=True)
    sys.stdin.readline()
store.close()
"""


def churn(history: History, size: int) -> None:
    for number in range(20):
        with history.store.write(durable=False, room=None) as writer:
            writer.put(Space.CHUNK, bytes(16), bytes([number]) * size)
    with history.store.write(durable=False, room=None) as writer:
        writer.delete(Space.CHUNK, bytes(16))


@pytest.mark.parametrize("command", ["status", "stats", "gc"])
def test_the_process_that_holds_pages_back_is_named(at: Casckpt, history: History, command: str) -> None:
    with Program(READER, history.path) as program:
        assert program.line() == "reading"
        os.kill(program.process.pid, signal.SIGSTOP)
        churn(history, 100_000)
        told = at(command)
        said = " ".join((told.out + told.err).split())
        assert f"MiB of what is free cannot be used before process {program.process.pid} on " in said
        assert "has done: it reads what was there" in said
        held = at(command, "--json").json["held"]
        assert held["bytes"] > 1 << 20 and held["changes"] > 20
        program.kill()
    told = at(command)
    assert "cannot be used" not in told.out + told.err
    assert at(command, "--json").json["held"] is None


def test_what_a_moment_holds_back_is_not_worth_a_word(at: Casckpt, history: History) -> None:
    with Program(READER, history.path) as program:
        assert program.line() == "reading"
        churn(history, 5_000)
        told = at("status")
        assert "cannot be used" not in told.out
        assert at("status", "--json").json["held"]["bytes"] < 1 << 20
        program.end()
