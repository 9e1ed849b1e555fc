"""Checks the small records: refs and HEAD, the reflog, marks, figures, counters. Gathers where history begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from casckpt.history.fsck.findings import DAMAGE, Findings
from casckpt.history.records import (
    BRANCH,
    HEAD,
    WHOLE,
    Mark,
    gc_epoch,
    get_figures,
    get_head,
    get_mark,
    moves_since,
    read_ref,
    reflog_next,
)
from casckpt.objects.paths import readable
from casckpt.store.checked import CHECKED_SINCE, COUNTERS, without_check
from casckpt.store.checked import records as small_records
from casckpt.store.format import COUNTER_KEY, FORMAT_KEY, decode_format
from casckpt.store.protocol import Reader, Space, Store

_OURS: Final = frozenset((FORMAT_KEY, COUNTER_KEY, *COUNTERS))
# What a damaged mark is taken for, so that nothing is missed which may have been released.
_RELEASED: Final = Mark(True, ())


@dataclass(slots=True)
class Records:
    """What the records say. roots: commits that refs or the reflog lead to, all of which are there."""

    roots: set[bytes] = field(default_factory=set)
    marks: dict[bytes, Mark] = field(default_factory=dict)
    refs: int = 0
    moves: int = 0
    records: int = 0

    def mark(self, commit: bytes) -> Mark:
        return self.marks.get(commit, WHOLE)


def check_records(reader: Reader, id_size: int, findings: Findings) -> Records:
    """Check every record of a transaction."""
    if reader.format_version < CHECKED_SINCE and any(without_check(*one) is not None for one in small_records(reader)):
        what = f"it says that the format is {reader.format_version}, and records are of a later one"
        findings.add("damaged-format", what)
    records = Records()
    _check_marks(reader, id_size, findings, records)
    refs = _check_refs(reader, findings, records)
    for ref, oid in _check_moves(reader, findings, records).items():
        if refs.get(ref) != oid:
            where = f"is at {refs[ref].hex()}" if ref in refs else "is not there"
            findings.add("ref-against-reflog", f"{ref.replace('/', ' ', 1)} {where}, and went to {_at(oid)}")
    for count in (gc_epoch, reflog_next):
        _try(findings, "damaged-counter", "a counter", partial(count, reader))
    for key in reader.keys(Space.META):
        if key not in _OURS:  # such as a counter under another name, without which it is taken for 0
            findings.add("stray-key", f"meta holds an entry under {_shown(key)}")
    return records


def check_format(reader: Reader, store: Store, findings: Findings) -> None:
    """Check what stands in the database of a store about itself, which is needed when it is opened next."""
    record, counter = reader.get(Space.META, FORMAT_KEY), reader.get(Space.META, COUNTER_KEY)
    try:
        same = record is not None and decode_format(store.path, bytes(record)) == store.format
    except DAMAGE:
        same = False
    if not same:
        findings.add("damaged-format", f"the record of {store.path}")
    if counter is None or len(counter) != 8 or counter[0]:  # nobody has counted to 2^56
        findings.add("damaged-counter", "the counter of acknowledged changes cannot be read")


def _try(findings: Findings, id: str, what: str, read: Callable[[], object]) -> bool:
    try:
        read()
    except DAMAGE as error:
        findings.add(id, f"{what}: {error.problem}")
        return False
    return True


def _at(oid: bytes | None) -> str:
    return "nowhere" if oid is None else oid.hex()


def _check_refs(reader: Reader, findings: Findings, records: Records) -> dict[str, bytes]:
    """Returns where the branches and tags are that can be read."""
    refs: dict[str, bytes] = {}
    for key, raw in reader.items(Space.REF):
        if key == HEAD:
            continue
        try:
            ref, oid = read_ref(reader, key, raw)
        except DAMAGE as error:
            findings.add("damaged-ref", f"the ref {_shown(key)} cannot be read: {error}")
            continue
        records.refs += 1
        refs[ref] = oid
        what = ref.replace("/", " ", 1)
        if not reader.has(Space.COMMIT, oid):
            findings.add("dangling-ref", f"{what} leads to commit {oid.hex()}, which is not there", object=oid.hex())
            continue
        records.roots.add(oid)
        if records.mark(oid).pruned:
            findings.add("ref-at-pruned-commit", f"{what} is at commit {oid.hex()}", object=oid.hex())
    if reader.has(Space.REF, HEAD) and _try(findings, "damaged-ref", "HEAD", partial(get_head, reader)):
        head = get_head(reader)
        if refs and BRANCH + head not in refs:
            findings.add("unborn-head", f"HEAD names the branch {head}")
    return refs


def _check_moves(reader: Reader, findings: Findings, records: Records) -> dict[str, bytes | None]:
    """Returns where the reflog last saw each ref go."""
    went: dict[str, bytes | None] = {}
    for key in reader.keys(Space.REFLOG):
        if len(key) != 8:
            findings.add("damaged-reflog-entry", f"it stands under {_shown(key)}, which is no number of one")
            continue
        seq = int.from_bytes(key, "big")
        records.moves += 1
        try:
            move = next(moves_since(reader, seq))
        except DAMAGE as error:
            findings.add("damaged-reflog-entry", f"entry {seq}: {error.problem}")
            continue
        went[move.ref] = move.new
        for oid in (move.old, move.new):
            if oid is None:
                continue
            if reader.has(Space.COMMIT, oid):
                records.roots.add(oid)
            else:
                what = f"entry {seq}, of {readable(move.ref)}, leads to commit {oid.hex()}, which is not there"
                findings.add("dangling-reflog-entry", what, object=oid.hex())
    return went


def _check_marks(reader: Reader, id_size: int, findings: Findings, records: Records) -> None:
    stray = 0
    for space, id in ((Space.MARK, "damaged-mark"), (Space.FIGURES, "damaged-figures")):
        for oid in reader.keys(space):
            records.records += 1
            if len(oid) != id_size:
                findings.add("stray-key", f"{space.name.lower()} holds an entry under {_shown(oid)}")
                continue
            what = f"of commit {oid.hex()}"
            if space is Space.MARK:
                records.marks[oid] = _RELEASED
                if _try(findings, id, what, partial(get_mark, reader, oid)):
                    records.marks[oid] = get_mark(reader, oid)
            else:
                _try(findings, id, what, partial(get_figures, reader, oid))
            stray += not reader.has(Space.COMMIT, oid)
    if stray:
        findings.add("stray-record", f"{stray} of them")


def _shown(key: bytes) -> str:
    return readable(key)
