"""Brings a store of an earlier format up to today's. Never beside another process: that may be of a casckpt which knows
the earlier format only, and would delete what chunks of the later one are based on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

from casckpt.errors import StoreBusyError
from casckpt.store import filesystem, openers
from casckpt.store.environment import Environment
from casckpt.store.format import FORMAT_KEY, FORMAT_VERSION, encode_format
from casckpt.store.locks import FileLock
from casckpt.store.protocol import Space, Writer


def upgrade(environment: Environment, write: Callable[[], AbstractContextManager[Writer]]) -> None:
    """Write today's version into the format record; `protocol.Store.upgrade` says what is raised.

    write: a durable write transaction.
    """
    if environment.format.version == FORMAT_VERSION:
        return
    path = environment.path
    with filesystem.system_errors(path, "it cannot be upgraded"), ExitStack() as gate:
        with write() as writer:
            # Within the transaction, and until it has ended: whoever has the gate never waits for the writer, and
            # nobody opens the store, to read that it is of the earlier format, before it is not.
            gate.enter_context(FileLock(path / "gate"))
            others = [openers.describe(one) for one in openers.tidy(path) if one != environment.opener]
            if others:
                raise StoreBusyError(
                    "its format can only be upgraded by a process that has it alone, and it is open in "
                    + ", ".join(others),
                    store=str(path),
                    holders=tuple(others),
                    remedy="end those first",
                )
            upgraded = replace(environment.format, version=FORMAT_VERSION)
            writer.put(Space.META, FORMAT_KEY, encode_format(upgraded))
        environment.format = upgraded
