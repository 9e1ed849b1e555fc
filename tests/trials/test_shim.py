"""The shim of failing calls sees each kind of call that changes a file, whatever its name, and says what befell it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.native import SHORT, build
from tests.processes import ROOT

PROGRAM = """
import os, sys
from pathlib import Path
from tests.native.faults import Faults

place, what = Path(sys.argv[1]), int(sys.argv[2])
(place / "there").mkdir()
(place / "there/empty").mkdir()
os.chdir(place / "there")
for name in "abcdef":
    Path(name).write_bytes(b"x" * 100)
inside = os.open(place / "there", os.O_RDONLY)
file = os.open("a", os.O_RDWR)
source = os.open("b", os.O_RDONLY)
faults = Faults()
calls = {
    "write": lambda: os.write(file, b"12"),
    "writev": lambda: os.writev(file, [b"1", b"2"]),
    "pwrite": lambda: os.pwrite(file, b"12", 0),
    "sendfile": lambda: os.sendfile(file, source, 0, 10),
    "copy_file_range": lambda: os.copy_file_range(source, file, 10, 0, 0),
    "ftruncate": lambda: os.ftruncate(file, 10),
    "fsync": lambda: os.fsync(file),
    "fdatasync": lambda: os.fdatasync(file),
    "open": lambda: os.open("new", os.O_CREAT | os.O_WRONLY),
    "openat": lambda: os.open("newer", os.O_CREAT | os.O_WRONLY, dir_fd=inside),
    "mkdir": lambda: os.mkdir("folder"),
    "mkdirat": lambda: os.mkdir("other", dir_fd=inside),
    "link": lambda: os.link("b", "linked"),
    "linkat": lambda: os.link("b", "another", src_dir_fd=inside, dst_dir_fd=inside),
    "symlinkat": lambda: os.symlink("b", "soft", dir_fd=inside),
    "rename": lambda: os.rename("b", "moved"),
    "renameat": lambda: os.rename("c", "gone", src_dir_fd=inside, dst_dir_fd=inside),
    "out of it": lambda: os.rename("f", place.parent / (place.name + " out")),
    "unlink": lambda: os.unlink("d"),
    "unlinkat": lambda: os.unlink("e", dir_fd=inside),
    "rmdir": lambda: os.rmdir("empty"),
    "utime": lambda: os.utime("a", (1, 1), dir_fd=inside),
    "chmod": lambda: os.chmod("a", 0o600, dir_fd=inside),
}
for name, call in calls.items():
    faults.arm(place, 1, what, 1)
    try:
        done = call()
    except OSError as error:
        done = f"errno {error.errno}"
    faults.disarm()
    print(name, faults.count, faults.met.partition(" ")[0] or "-", done, sep=",")
faults.arm(place, 1, 5, 1)
try:
    os.fsync(file)
except OSError:
    pass
os.fsync(inside)
print("syncs", faults.unsynced, faults.resynced, sep=",")
os.fsync(file)
print("syncs", faults.unsynced, faults.resynced, sep=",")
"""
WRITES = {"write": 1, "writev": 1, "pwrite": 1, "sendfile": 5, "copy_file_range": 5}
SYNCS = {"fsync", "fdatasync"}
MAKES = {"open", "openat", "mkdir", "mkdirat", "link", "linkat", "symlinkat"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("faults", tmp_path_factory.mktemp("built"))


def told(library: Path, place: Path, what: int) -> dict[str, list[str]]:
    place.mkdir()
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), str(place), str(what)],
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said[-2:] == ["syncs,1,0", "syncs,1,1"], "a sync that is tried again is told from one of another file"
    return {name: rest for name, *rest in (line.split(",") for line in said[:-2])}


def test_every_kind_of_call_is_seen_by_whatever_name_and_fails(library: Path, tmp_path: Path) -> None:
    for name, (count, met, done) in told(library, tmp_path / "it", errno.EIO).items():
        assert (count, done) == ("1", f"errno {errno.EIO}") and met != "-", (name, count, met, done)


def test_only_a_call_that_needs_room_meets_a_full_disk(library: Path, tmp_path: Path) -> None:
    found = told(library, tmp_path / "it", errno.ENOSPC)
    assert {name for name, (_, met, _) in found.items() if met != "-"} == SYNCS | MAKES | WRITES.keys()
    assert {done for _, met, done in found.values() if met != "-"} == {f"errno {errno.ENOSPC}"}
    assert not [done for _, met, done in found.values() if met == "-" and done.startswith("errno")]


def test_only_a_call_that_is_given_several_bytes_takes_a_part_of_them(library: Path, tmp_path: Path) -> None:
    found = told(library, tmp_path / "it", SHORT)
    assert {name: int(done) for name, (_, met, done) in found.items() if met != "-"} == WRITES
