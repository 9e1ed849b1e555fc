"""salvage: a new store out of what a damaged one's file still holds. `casckpt.salvage` is this. torch is not imported.

The file is read, never mapped and never written. docs/design/salvage.md says how it decides.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from casckpt.errors import CorruptObjectError, StoreBusyError, StoreSettingsError
from casckpt.history.fetch import Objects
from casckpt.history.salvage.build import Built, build, foresee
from casckpt.history.salvage.lines import Lines
from casckpt.history.salvage.place import (
    check_destination,
    check_others,
    check_unused,
    find_source,
    identity,
    making,
    put_in_place,
)
from casckpt.history.salvage.plan import Plan, make_plan, usual_chunk_size
from casckpt.history.salvage.remains import HASH_OF, Remains, look_through
from casckpt.history.salvage.report import HurtState, SalvageReport
from casckpt.history.salvage.states import ObjectKey
from casckpt.objects.ids import IdScheme, id_scheme
from casckpt.store.filesystem import system_errors, whole_path
from casckpt.store.format import new_format
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Progress, StoreFormat, no_progress
from casckpt.store.scan import Scanned


def salvage(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    *,
    others: Iterable[str | PathLike[str]] = (),
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> SalvageReport:
    """Make a new store of everything that can be had out of a damaged one. The damaged one stays as it is.

    src: a store's folder, or its data file; nobody may have it open. dst: a folder that is empty, or not there yet;
    it is a store once all is there and was checked. others: stores, backups say, out of which objects are taken that
    are lost. dry_run: only say what would come back. progress: as for `Repository.gc`.

    Raises:
        StoreNotFoundError, StoreBusyError, StoreFullError
        NotAStoreError: no place for the new store, or something is there; or one of `others` is the damaged one.
        StoreSettingsError: another store names its objects by another hash.
        CorruptObjectError: not one commit is left.
        NewerFormatError: a later casckpt wrote it.
    """
    began = time.monotonic()
    source, place = whole_path(src), whole_path(dst)
    with system_errors(source, "it cannot be read"):
        data = find_source(source)
    with system_errors(place, "it cannot be written"):
        check_destination(source, data, place)
    stores = [whole_path(path) for path in others]
    check_others(data, stores)
    with contextlib.ExitStack() as held:
        with system_errors(data, "it cannot be read"):
            file = held.enter_context(Scanned(data))
            before = identity(data)
        heap, found = look_through(file, progress)
        scheme = id_scheme(found.hash if found is not None else HASH_OF[heap.evidence.id_size])
        remains = Remains(file, heap, scheme, [_other(held, path, scheme) for path in stores])
        plan = make_plan(remains, heap.evidence, progress)
        if not plan.lines.commits:
            raise CorruptObjectError(f"{data}: not one commit is left in it", remedy="restore the store from a backup")
        format = found or new_format(str(place), hash=scheme.name, chunk_size=usual_chunk_size(remains), codec=None)
        if dry_run:
            built = foresee(remains, plan)
        else:
            with making(place) as folder:
                built, mark = build(folder, remains, plan, heap.evidence.figures, format, progress)
                with system_errors(data, "it cannot be read"):
                    check_unused(data)
                    if identity(data) != before:
                        raise StoreBusyError("it was changed while it was read", store=str(data), remedy="try again")
                put_in_place(data, folder, mark)
        return _report(data, place, file, remains, plan, built, found is not None, dry_run, time.monotonic() - began)


def _other(held: contextlib.ExitStack, place: Path, scheme: IdScheme) -> Objects:
    """The objects of another store, for as long as `held` lasts."""
    store = open_store(place, create=False)
    held.callback(store.close)
    check_hash(store.path, store.format, scheme)
    return Objects(held.enter_context(store.read()), scheme)


def check_hash(path: str, format: StoreFormat, scheme: IdScheme) -> None:
    """Raise StoreSettingsError where a store names its objects by another hash."""
    if format.hash != scheme.name:
        raise StoreSettingsError(
            f"it names its objects by {format.hash}, and not by {scheme.name}, so it has none of those",
            store=path,
            remedy="give a backup, or another store with the same hash",
        )


def _report(
    data: Path,
    place: Path,
    file: Scanned,
    remains: Remains,
    plan: Plan,
    built: Built,
    format_found: bool,
    dry_run: bool,
    seconds: float,
) -> SalvageReport:
    hurt = _hurt(plan, built)
    emptied = {one.commit for one in hurt} | {
        plan.lines.ids[oid].hex() for oid, mark in plan.marks.items() if mark.pruned and oid in plan.lines.ids
    }
    return SalvageReport(
        dry_run=dry_run,
        source=str(data),
        destination=str(place),
        bytes=file.size,
        commits=len(plan.lines.commits),
        whole=len(plan.lines.commits) - len(emptied),
        trees=built.trees,
        nodes=built.nodes,
        chunks=built.chunks,
        stored_bytes=built.stored,
        taken=remains.taken,
        format_found=format_found,
        refs=tuple(plan.refs),
        lost_refs=plan.lost_refs,
        hurt=hurt,
        lost_commits=tuple(oid.hex() for oid in plan.lost),
        rewritten={old.hex(): new.hex() for old, new in plan.lines.rewritten.items()},
        left=tuple(oid.hex() for oid in plan.left),
        complete=plan.complete and not built.blamed,
        seconds=seconds,
    )


def _hurt(plan: Plan, built: Built) -> tuple[HurtState, ...]:
    lines: Lines = plan.lines
    # many commits may have lost the same, which is named once
    named = {lost: tuple(map(_named, sorted(lost))) for lost in {one.lost for one in plan.hurt.values()}}
    found = [
        HurtState(lines.ids[oid].hex(), lines.commits[oid].step, one.parts or (), named[one.lost])
        for oid, one in plan.hurt.items()
    ]
    steps = {lines.ids[oid]: commit.step for oid, commit in lines.commits.items()}
    found += [HurtState(oid.hex(), steps[oid], (), ids) for oid, ids in (built.blamed or {}).items()]
    return tuple(found)


def _named(key: ObjectKey) -> str:
    return f"{key[0].name.lower()} {key[1].hex()}"
