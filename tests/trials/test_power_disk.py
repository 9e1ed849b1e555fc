"""The disk of which power is taken away: what a sync covers is exact on it, and else it is one of what it was."""

from __future__ import annotations

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trials.power.disk import SECTOR, Disk, File
from tests.trials.power.image import as_seen, contents, names, on_disk, write_image
from tests.trials.power.log import Linked, Made, Removed, Renamed, Resize, SyncBegins, SyncEnds, Write

ROOT = 1
SIZE = 4 * SECTOR

writes = st.tuples(st.just("write"), st.integers(0, SIZE), st.binary(min_size=1, max_size=3 * SECTOR))
resizes = st.tuples(st.just("resize"), st.integers(0, SIZE), st.just(b""))
syncs = st.tuples(st.just("sync"), st.just(0), st.just(b""))
histories = st.lists(writes | writes | resizes | syncs, max_size=12)


def made(disk: Disk, path: str, inode: int, *, folder: bool = False) -> None:
    disk.apply(Made(path, inode, folder))


def sync(disk: Disk, inode: int) -> None:
    disk.apply(SyncBegins(0, inode))
    disk.apply(SyncEnds(0))


def tried(disk: Disk, path: str, draws: int = 40) -> set[bytes | None]:
    """What is found at a path, over many losses of power."""
    found: set[bytes | None] = set()
    for draw in range(draws):
        with TemporaryDirectory() as place:
            write_image(disk, Random(draw), Path(place))
            found.add(on_disk(Path(place)).get(path))
    return found


@given(histories, st.integers(0, 2**32))
@settings(deadline=None)
def test_a_file_is_as_programs_see_it_and_exact_after_a_sync_whatever_was_done_to_it(history, draw):
    plain, file = bytearray(), File()
    for moment, (what, at, data) in enumerate(history, 1):
        if what == "write":
            plain.extend(bytes(max(0, at + len(data) - len(plain))))
            plain[at : at + len(data)] = data
            file.write(moment, at, data)
        elif what == "resize":
            plain[at:] = bytes(max(0, at - len(plain)))
            file.resize(moment, at)
        else:
            file.sync(moment)
            assert contents(file, Random(draw)) == plain == file.lasting
    assert file.now == plain
    file.sync(len(history))
    assert contents(file, Random(draw)) == plain


@given(histories, st.data())
@settings(deadline=None)
def test_a_sector_that_is_not_synced_is_as_it_was_after_some_write_or_garbage_if_more_was_written(history, data):
    # A plain reference: all that the file ever was since the last sync.
    file, versions = File(), [b""]
    widely: set[int] = set()
    for moment, (what, at, written) in enumerate(history, 1):
        if what == "write":
            file.write(moment, at, written)
            first, last = at // SECTOR, (at + len(written) - 1) // SECTOR
            widely |= set(range(first, last + 1)) if first != last else set()
        elif what == "resize":
            file.resize(moment, at)
        else:
            file.sync(moment)
            versions, widely = [], set()
        versions.append(bytes(file.now))
    found = contents(file, Random(data.draw(st.integers(0, 2**32))))
    assert len(found) in {len(version) for version in versions}
    for at in range(0, len(found), SECTOR):
        held = found[at : at + SECTOR]
        padded = {version[at : at + SECTOR].ljust(SECTOR, b"\0")[: len(held)] for version in versions}
        assert held in padded or at // SECTOR in widely


def test_a_sync_covers_what_came_before_it_began_and_nothing_later():
    disk = Disk(ROOT)
    made(disk, "f", 2)
    disk.apply(Write(2, 0, b"a" * 10, False))
    sync(disk, 2)
    sync(disk, ROOT)
    disk.apply(SyncBegins(7, 2))
    disk.apply(Write(2, 0, b"b" * 10, False))
    disk.apply(SyncEnds(7))
    assert tried(disk, "f") == {b"a" * 10, b"b" * 10}


def test_a_write_through_a_descriptor_that_syncs_is_lasting_with_what_its_sectors_held():
    disk = Disk(ROOT)
    made(disk, "f", 2)
    sync(disk, ROOT)
    disk.apply(Write(2, 0, b"a" * 100, False))
    disk.apply(Write(2, 50, b"b" * 10, True))
    assert tried(disk, "f") == {b"a" * 50 + b"b" * 10 + b"a" * 40}


def test_a_name_is_lasting_by_a_sync_of_its_folder_alone():
    disk = Disk(ROOT)
    made(disk, "d", 3, folder=True)
    made(disk, "d/f", 2)
    disk.apply(Write(2, 0, b"all", False))
    sync(disk, 2)
    assert tried(disk, "d/f") == {None, b"all"}
    sync(disk, ROOT)
    assert tried(disk, "d/f") == {None, b"all"}
    sync(disk, 3)
    assert tried(disk, "d/f") == {b"all"}
    disk.apply(Removed("d/f"))
    assert tried(disk, "d/f") == {None, b"all"}
    sync(disk, 3)
    assert tried(disk, "d/f") == {None}


def test_a_rename_is_done_or_not_done_also_between_folders():
    disk = Disk(ROOT)
    for inode, (path, data) in enumerate({"old": b"old", "d/new": b"new"}.items(), 10):
        if "/" in path:
            made(disk, "d", 3, folder=True)
        made(disk, path, inode)
        disk.apply(Write(inode, 0, data, False))
        sync(disk, inode)
    sync(disk, ROOT)
    sync(disk, 3)
    disk.apply(Renamed("d/new", "old", False))
    seen = set()
    for draw in range(20):
        folders = names(disk, Random(draw))
        seen.add(("new" in folders[disk.at("d")], bytes(folders[disk.root]["old"].now)))
    assert seen == {(True, b"old"), (False, b"new")}
    sync(disk, 3)  # of the folder that it left: not enough
    assert tried(disk, "old") == {b"old", b"new"}
    sync(disk, ROOT)
    assert tried(disk, "old") == {b"new"} and tried(disk, "d/new") == {None}


def test_exchanged_folders_keep_what_is_in_them_and_links_are_one_file(tmp_path):
    disk = Disk(ROOT)
    for inode, path in enumerate(("one", "other"), 3):
        made(disk, path, inode, folder=True)
        made(disk, f"{path}/f", inode + 10)
        disk.apply(Write(inode + 10, 0, path.encode(), False))
    disk.apply(Renamed("one", "other", True))
    disk.apply(Linked("one/f", "same"))
    for inode in (3, 4, 13, 14, ROOT):
        sync(disk, inode)
    disk.apply(Resize(14, 2))
    assert as_seen(disk) == {"one": None, "one/f": b"ot", "other": None, "other/f": b"one", "same": b"ot"}
    write_image(disk, Random(0), tmp_path)
    assert (tmp_path / "same").samefile(tmp_path / "one/f")


def test_a_third_of_the_sectors_is_lost_a_quarter_garbage_and_of_those_written_in_part_none():
    file = File()
    file.write(1, 0, b"old " * 128 * 1000)
    file.sync(1)
    file.write(2, 0, b"new " * 128 * 1000)
    found = contents(file, Random(1))
    sectors = [found[at : at + SECTOR] for at in range(0, len(found), SECTOR)]
    assert 330 < sectors.count(b"old " * 128) < 420
    assert 330 < sectors.count(b"new " * 128) < 420
    file = File()
    file.write(1, 0, b"old " * 128 * 1000)
    file.sync(1)
    for at in range(1000):
        file.write(2, at * SECTOR + 8, b"new " * 30)
    found = contents(file, Random(1))
    assert len({found[at : at + SECTOR] for at in range(0, len(found), SECTOR)}) == 2
