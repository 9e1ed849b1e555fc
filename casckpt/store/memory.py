"""The store's model: the same protocol over plain dictionaries, each transaction on a snapshot of its own.

It is what tests hold the LMDB store against, so it is written to be seen to be right, not to be fast.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from casckpt.errors import StoreBusyError, StoreClosedError, StoreError
from casckpt.limits import DEFAULT_CHUNK_SIZE
from casckpt.store.checked import CHECKED_SINCE, add_checks
from casckpt.store.format import FORMAT_VERSION
from casckpt.store.protocol import (
    MAX_KEY,
    BackupReport,
    CompactReport,
    Progress,
    Reader,
    Space,
    StoreFormat,
    StoreSize,
    Writer,
    no_progress,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

Contents = dict[Space, dict[bytes, bytes]]


class MemoryReader:
    """A read transaction over one frozen copy of the contents."""

    def __init__(self, contents: Contents, format_version: int) -> None:
        self._contents: Contents | None = contents
        self.format_version = format_version

    @property
    def _live(self) -> Contents:
        if self._contents is None:
            raise StoreClosedError("the transaction has ended")
        return self._contents

    def get(self, space: Space, key: bytes) -> memoryview | None:
        value = self._live[space].get(key)
        return None if value is None else memoryview(value)

    def has(self, space: Space, key: bytes) -> bool:
        return key in self._live[space]

    def size(self, space: Space, key: bytes) -> int | None:
        value = self._live[space].get(key)
        return None if value is None else len(value)

    def keys(self, space: Space, start: bytes = b"", *, reverse: bool = False) -> Iterator[bytes]:
        ordered = sorted(self._live[space], reverse=reverse)
        if reverse:
            return iter([key for key in ordered if not start or key < start])
        return iter([key for key in ordered if key >= start])

    def items(self, space: Space, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, memoryview]]:
        for key in self.keys(space, start, reverse=reverse):
            yield key, memoryview(self._live[space][key])

    def count(self, space: Space) -> int:
        return len(self._live[space])

    def hand_over(self) -> None:
        pass

    def close(self) -> None:
        self._contents = None

    def __enter__(self) -> MemoryReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class MemoryWriter(MemoryReader):
    """A write transaction: changes a private copy, which replaces the contents when it commits."""

    def put(self, space: Space, key: bytes, value: Buffer, *, overwrite: bool = True) -> bool:
        held = self._live[space]
        if not 0 < len(key) <= MAX_KEY:
            raise ValueError(f"a key is 1 to {MAX_KEY} bytes long, not {len(key)}")
        if not overwrite and key in held:
            return False
        held[key] = bytes(value)
        return True

    def delete(self, space: Space, key: bytes) -> bool:
        return self._live[space].pop(key, None) is not None


class MemoryStore:
    """A store that lives as long as this object."""

    def __init__(self, *, hash: str = "xxh3_128", chunk_size: int = DEFAULT_CHUNK_SIZE, codec: str = "auto") -> None:
        self.path = ":memory:"
        self.format = StoreFormat(
            version=FORMAT_VERSION, uuid=str(uuid.uuid4()), hash=hash, chunk_size=chunk_size, codec=codec, map_size=0
        )
        self._contents: Contents = {space: {} for space in Space}
        self._write_lock = threading.Lock()
        self._state_lock = threading.Lock()  # contents and the version that they are of change together
        self._maintenance_lock = threading.Lock()
        self._closed = False

    def _copy(self) -> Contents:
        return {space: dict(held) for space, held in self._contents.items()}

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed", store=self.path)

    def read(self) -> Reader:
        self._check_open()
        with self._state_lock:
            return MemoryReader(self._contents, self.format.version)

    @contextmanager
    def write(self, *, durable: bool, room: int | None) -> Iterator[Writer]:
        with self._write_lock:
            self._check_open()
            changed = self._copy()
            writer = MemoryWriter(changed, self.format.version)
            try:
                yield writer
                if writer._contents is not None:  # closed within the block: given up
                    self._contents = changed
            finally:
                writer.close()

    @contextmanager
    def maintenance(self, *, wait: bool = False) -> Iterator[None]:
        if not self._maintenance_lock.acquire(blocking=wait):
            raise StoreBusyError("gc, repack or compact is under way", store=self.path, holders=("this process",))
        try:
            yield
        finally:
            self._maintenance_lock.release()

    def openers(self) -> tuple[str, ...]:
        return ("this process",)

    def size(self) -> StoreSize:
        used = sum(len(key) + len(value) for held in self._contents.values() for key, value in held.items())
        return StoreSize(file=used, used=used, free=0)

    def held_back(self) -> None:
        return None

    def check_pages(self, *, values: bool) -> None:
        return None

    def compact(self, *, dry_run: bool = False, progress: Progress = no_progress) -> CompactReport:
        self._check_open()
        with self.maintenance():
            size = self.size().file
        return CompactReport(dry_run=dry_run, before=size, after=size, reserve=0, holders=(), seconds=0.0)

    def backup(self, destination: str, *, progress: Progress = no_progress) -> BackupReport:
        raise StoreError("there is no file to copy", store=self.path, remedy="open a store on the disk")

    def upgrade(self) -> None:
        with self._write_lock:
            self._check_open()
            changed = self._copy()
            if self.format.version < CHECKED_SINCE:
                add_checks(MemoryWriter(changed, self.format.version))
            with self._state_lock:
                self._contents, self.format = changed, replace(self.format, version=FORMAT_VERSION)

    def close(self) -> None:
        with self._write_lock:
            self._closed = True
