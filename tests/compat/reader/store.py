"""A store at rest: its records, its commits, their states, and everything that they must agree on."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import xxhash

from tests.compat.reader.errors import NewerError, need
from tests.compat.reader.objects import (
    ID_BYTES,
    KINDS,
    checked_name,
    checked_ref,
    object_id,
    open_frame,
    read_frame,
    unpack,
)
from tests.compat.reader.values import Mapping, State

LATER_SPACES = ("base", "dependant")  # not in version 1
COUNTERS = ("gc_epoch", "reflog_next")  # those with a check
SPACES = ("chunk", *LATER_SPACES, "node", "tree", "commit", "ref", "reflog", "mark", "figures", "meta")


@dataclass
class Commit:
    tree: bytes
    parents: list[bytes]
    branch: str
    step: int | None
    metrics: list[list[Any]]
    message: str
    time: int
    host: str
    meta: Any


@dataclass
class Move:
    number: int
    time: int
    ref: str
    old: bytes | None
    new: bytes | None
    action: str


@dataclass
class Store:
    """A store at rest, every record in it checked; objects are checked as they are read, or all by `check`."""

    path: Path
    format: dict[str, Any] = field(init=False)
    head: str = "main"
    refs: dict[str, bytes] = field(default_factory=dict)
    reflog: list[Move] = field(default_factory=list)
    marks: dict[bytes, tuple[bool, list[str]]] = field(default_factory=dict)
    figures: dict[bytes, list[int]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # what is read fits into memory: these are stores for tests
        self._spaces: dict[str, dict[bytes, bytes]] = {}
        environment = lmdb.open(str(self.path), readonly=True, lock=False, max_dbs=64, create=False)
        with environment, environment.begin() as transaction:
            there = dict(transaction.cursor())
            for name in SPACES:
                if name in LATER_SPACES and name.encode() not in there:
                    continue
                database = environment.open_db(name.encode(), txn=transaction, create=False)
                need(not any(database.flags(transaction).values()), f"{name} has flags")
                self._spaces[name] = dict(transaction.cursor(db=database))
        self._read_format()
        self._read_counters()
        self._read_refs()
        for oid, raw in self._records("mark"):
            pruned, parts = unpack(raw)
            need(type(pruned) is bool and parts == sorted(set(parts)) and len(oid) == self.id_bytes, "no mark")
            self.marks[oid] = pruned, parts
        for oid, raw in self._records("figures"):
            self.figures[oid] = unpack(raw)
            need(len(self.figures[oid]) == 5 and all(type(count) is int for count in self.figures[oid]), "no figures")

    def _read_format(self) -> None:
        made = self.format = msgpack.unpackb(self._spaces["meta"][b"format"])
        need(type(made["version"]) is int and made["version"] >= 1, "no version")
        if made["version"] > 3:
            raise NewerError(f"format {made['version']}")
        size = made["chunk_size"]
        need(made["version"] == 1 or set(LATER_SPACES) <= set(self._spaces), "records that are missing")
        need(made["hash"] in ID_BYTES and made["codec"] in ("none", "fast", "auto", "small"), "an unknown setting")
        need(256 <= size <= 2**26 and size & (size - 1) == 0, "an impossible chunk size")
        need(2**20 <= made["map_size"] <= 2**44 and str(uuid.UUID(made["uuid"])) == made["uuid"], "no format record")
        self.id_bytes = ID_BYTES[made["hash"]]

    def _records(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        for key, record in self._spaces[space].items():
            yield key, self._value(space, key, record)

    def _value(self, space: str, key: bytes, record: bytes) -> bytes:
        """What is in front of the check of a record, from version 3 on."""
        if self.format["version"] < 3:
            return record
        value = record[:-8]
        covered = space.encode() + bytes(1) + len(key).to_bytes(2, "little") + key + value
        check = xxhash.xxh3_64(covered, seed=0).digest()
        need(record[-8:] == check, f"a record of {space} that is not what was written there")
        return value

    def _read_counters(self) -> None:
        for name in ("counter", *COUNTERS):
            raw = self._spaces["meta"].get(name.encode())
            if raw is None:
                raw = bytes(8)
            elif name in COUNTERS:
                raw = self._value("meta", name.encode(), raw)
            need(len(raw) == 8 and raw[0] == 0, f"no counter: {name}")
            self.counters[name] = int.from_bytes(raw, "big")
        path = self.path / "mark"
        slot = path.read_bytes() if path.exists() else b""
        if len(slot) != 40 or slot[:8] != b"casmark1" or xxhash.xxh64(slot[:32], seed=0).digest() != slot[32:]:
            return  # none, or a torn one
        need(uuid.UUID(bytes=slot[8:24]) == uuid.UUID(self.format["uuid"]), "the mark of another store")
        marked = int.from_bytes(slot[24:32], "little")
        need(marked <= self.counters["counter"], "acknowledged changes are missing")

    def _read_refs(self) -> None:
        for key, value in self._records("ref"):
            name = key.decode()
            if name == "HEAD":
                self.head = checked_name(value.decode())
            else:
                self.refs[checked_ref(name)] = value
        for key, raw in self._records("reflog"):
            need(len(key) == 8, "no number of an entry")
            move = Move(int.from_bytes(key, "big"), *unpack(raw))
            need(move.number < self.counters["reflog_next"], "an entry with a number that is to come")
            need(type(move.time) is int and type(move.action) is str, "no entry of the reflog")
            checked_ref(move.ref)
            self.reflog.append(move)

    # -- objects -------------------------------------------------------------------------------------------------------

    def object(self, kind: str, oid: bytes, deltas: int = 0) -> bytes:
        need(isinstance(oid, bytes) and len(oid) == self.id_bytes, f"no id of a {kind}")
        frame = self._spaces[kind].get(oid)
        need(frame is not None, f"{kind} {oid.hex()} is missing")
        need(deltas <= 64, "a chain of deltas that is too long, or a circle")
        held, raw = read_frame(kind, frame, lambda base: self.object("chunk", base, deltas + 1))
        need(held == oid == object_id(self.format["hash"], kind, raw), f"{kind} {oid.hex()} is something else")
        return raw

    def node(self, oid: bytes) -> tuple[int, int, list[bytes]]:
        """Length, chunk size and the ids of the chunks."""
        length, size, ids = unpack(self.object("node", oid))
        need(length >= 1 and 256 <= size <= 2**26, "an impossible node")
        count = -(-length // size)
        need(len(ids) == count * self.id_bytes, "a node with another number of chunks")
        return length, size, [ids[at : at + self.id_bytes] for at in range(0, len(ids), self.id_bytes)]

    def storage(self, oid: bytes) -> bytes:
        length, size, ids = self.node(oid)
        chunks = [self.object("chunk", one) for one in ids]
        need(all(len(chunk) == size for chunk in chunks[:-1]), "a chunk of another length")
        held = b"".join(chunks)
        need(len(held) == length, "a last chunk of another length")
        return held

    def commit(self, oid: bytes) -> Commit:
        raw = self.object("commit", oid)
        need(len(raw) <= 1638400, "a commit that is too long")
        fields = unpack(raw)
        need(len(fields) == 9, "no commit")
        commit = Commit(*fields[:8], State(None).value(unpack(fields[8]), 0))
        need(all(len(one) == self.id_bytes for one in (commit.tree, *commit.parents)), "ids of another length")
        need(commit.step is None or -(2**63) <= commit.step < 2**64, "an impossible step")
        need(len(commit.metrics) <= 4096 and len(commit.message.encode()) <= 65536, "too much in a commit")
        need(all(type(name) is str and type(number) is float for name, number in commit.metrics), "no metrics")
        need(type(commit.time) is int and type(commit.host) is str, "no time or host")
        need(
            isinstance(commit.meta, Mapping) and all(type(key) is str for key, _ in commit.meta.entries), "no metadata"
        )
        checked_name(commit.branch)
        return commit

    def reached(self) -> Iterator[tuple[bytes, Commit]]:
        """Every commit that a ref or the reflog leads to."""
        seen: set[bytes] = set()
        pending = [*self.refs.values(), *(oid for move in self.reflog for oid in (move.old, move.new) if oid)]
        while pending:
            oid = pending.pop()
            if oid not in seen:
                seen.add(oid)
                commit = self.commit(oid)
                pending += commit.parents
                yield oid, commit

    def state(self, oid: bytes) -> Any:
        """The state of a commit without its released parts; a pruned one has none."""
        pruned, released = self.marks.get(oid, (False, []))
        need(not pruned, "the commit was pruned")
        reading = State(self)
        made = reading.whole(self.commit(oid).tree, released)
        if oid in self.figures and not released:
            chunks = sum(len(self.node(node)[2]) for node in reading.nodes)
            logical, new, _, all_chunks, new_chunks = self.figures[oid]
            need((logical, all_chunks) == (reading.logical, chunks), "figures that count something else")
            need(new <= logical and new_chunks <= all_chunks, "more new than there is")
        return made

    def codecs(self) -> dict[int, int]:
        """How many chunks are by which codec."""
        return Counter(open_frame("chunk", frame).codec for frame in self._spaces["chunk"].values())

    def _check_bases(self) -> None:
        based = {oid: open_frame("chunk", frame).base for oid, frame in self._spaces["chunk"].items()}
        deltas = {oid: base for oid, base in based.items() if base is not None}
        need(self._spaces.get("base", {}) == deltas, "records of bases that the frames do not bear out")
        dependants = {base + oid: b"" for oid, base in deltas.items()}
        need(self._spaces.get("dependant", {}) == dependants, "records of dependants that the frames do not bear out")
        need(self.format["version"] > 1 or not {*self.codecs()} - {0, 1}, "codecs that version 1 does not have")

    def check(self) -> dict[str, int]:
        """Read everything there is; says how much that was."""
        self._check_bases()
        for kind in KINDS:
            for oid in self._spaces[kind]:
                self.object(kind, oid)
        whole = [oid for oid, _ in self.reached() if not self.marks.get(oid, (False,))[0]]
        for oid in whole:
            self.state(oid)
        return {kind: len(self._spaces[kind]) for kind in KINDS} | {"whole commits": len(whole)}
