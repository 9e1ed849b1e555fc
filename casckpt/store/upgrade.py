"""Brings a store of an earlier format up to today's. Never beside another process: that may be of a casckpt which knows
the earlier format only, and would delete what chunks of the later one are based on."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Final

from casckpt.errors import CasckptError, StoreBusyError
from casckpt.store import filesystem, openers
from casckpt.store.checked import CHECKED_SINCE, add_checks, records
from casckpt.store.environment import Environment
from casckpt.store.folder import GATE
from casckpt.store.format import FORMAT_KEY, FORMAT_VERSION, encode_format
from casckpt.store.locks import FileLock
from casckpt.store.protocol import Space, Store

# Bytes of pages that a record makes others, at most: so many, and so many times its own. Too much is not written.
_RECORD: Final = 512
_SHARE: Final = 4  # it may get a page for itself as soon as two do not fit into one


def upgrade(environment: Environment, store: Store) -> None:
    """Write today's version into the format record, and every record as it has it, all in one transaction;
    `protocol.Store.upgrade` says what is raised.

    store: a handle on it.
    """
    if environment.format.version == FORMAT_VERSION:
        return
    path = environment.path
    upgraded = replace(environment.format, version=FORMAT_VERSION)
    try:
        with filesystem.system_errors(path, "it cannot be upgraded"), ExitStack() as gate:
            with store.read() as reader:
                room = sum(_RECORD + _SHARE * (len(key) + len(record)) for _, key, record in records(reader))
            with store.write(durable=True, room=room) as writer:
                # Within the transaction, and until it has ended: whoever has the gate never waits for the writer, and
                # nobody opens the store, to read that it is of the earlier format, before it is not.
                gate.enter_context(FileLock(path / GATE))
                others = [openers.describe(one) for one in openers.tidy(path) if one != environment.opener]
                if others:
                    raise StoreBusyError(
                        "its format can only be upgraded by a process that has it alone, and it is open in "
                        + ", ".join(others),
                        store=str(path),
                        holders=tuple(others),
                        remedy="end those first",
                    )
                if writer.format_version < CHECKED_SINCE:
                    add_checks(writer)
                writer.put(Space.META, FORMAT_KEY, encode_format(upgraded))
            environment.format = upgraded
    except BaseException:
        _settle(environment, store)  # past the gate: whoever wants the environment alone waits there for all that read
        raise


def _settle(environment: Environment, store: Store) -> None:
    """Take the version out of the store: an interrupt may come when it is written already."""
    with suppress(CasckptError), store.read() as reader:
        environment.format = replace(environment.format, version=reader.format_version)
