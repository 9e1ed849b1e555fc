"""Programs that acknowledge too early, or that need a certain thing of the disk: these must be found out."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import lmdb

from casckpt.store.environment import Environment
from casckpt.store.mark import Mark, move_mark
from casckpt.tensors.formats.swap import put_folder
from tests.trials.power import story
from tests.trials.power.story import Say


def tell_commits(folder: str, seed: int, say: Say) -> None:
    """Commits, compact, and commits that are in the new file alone."""
    story.small_batches()
    told = story.Story(Path(folder), seed, say)
    told.open()
    for what in ("commit", "commit", "compact", "commit", "tag", "commit"):
        told.act(what)
    told.close()


def tell_unsynced(folder: str, seed: int, say: Say) -> None:
    """A store that acknowledges what no sync has covered."""
    Environment.sync = lambda self: None  # type: ignore[method-assign]
    tell_commits(folder, seed, say)


def tell_mark_first(folder: str, seed: int, say: Say) -> None:
    """A store whose mark moves before what it counts is on the disk."""

    def acknowledge(self: Environment, counter: int) -> None:
        move_mark(self.path / "mark", Mark(self.format.uuid, counter))
        self.sync()

    Environment._acknowledge = acknowledge  # type: ignore[method-assign]
    tell_commits(folder, seed, say)


def tell_lmdb(folder: str, seed: int, say: Say) -> None:
    """LMDB by itself, which writes its heads through a descriptor of their own, whose writes are lasting."""
    with lmdb.open(str(Path(folder) / "db"), map_size=1 << 24, lib_version=0) as raw:
        story.sync_folder(Path(folder) / "db")
        story.sync_folder(Path(folder))
        for number in range(8):
            with raw.begin(write=True) as transaction:
                transaction.put(b"%d" % number, b"%d" % number * 2000)
            say(json.dumps({"acknowledged": number + 1, "doing": None}))


def check_lmdb(folder: str, seed: int, acknowledged: Any, doing: Any, then: Any, draw: int) -> str:
    """Look at that."""
    if acknowledged is None:
        return "nothing"
    with (
        lmdb.open(str(Path(folder) / "db"), map_size=1 << 24, lib_version=0, create=False) as raw,
        raw.begin() as reader,
    ):
        for number in range(acknowledged):
            assert reader.get(b"%d" % number) == b"%d" % number * 2000, number
    return "all"


def tell_calls(folder: str, say: Say) -> None:
    """Every kind of call that changes a file, from several threads and a child."""
    place = Path(folder)
    for name in ("one", "other", "gone", "gone/deeper"):
        (place / name).mkdir()
    (place / "gone/deeper/f").write_bytes(b"f")
    shutil.rmtree(place / "gone")  # by descriptors of folders
    descriptor = os.open(place / "one/f", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"a" * 1000)
    os.pwrite(descriptor, b"b" * 100, 5000)
    os.writev(descriptor, [b"c" * 10, b"d" * 10])
    os.pwritev(descriptor, [b"e" * 700, b"f" * 700], 3)
    os.lseek(descriptor, 2000, os.SEEK_SET)
    os.write(descriptor, b"g")
    os.ftruncate(descriptor, 4000)
    os.fsync(descriptor)
    os.close(descriptor)
    for flag in (os.O_APPEND, os.O_DSYNC, os.O_TRUNC):
        descriptor = os.open(place / "one/f", os.O_WRONLY | flag)
        os.write(descriptor, b"h" * 600)
        os.close(descriptor)
    (place / "other/link").hardlink_to(place / "one/f")
    (place / "other/link").rename(place / "one/again")
    put_folder(place / "one", place / "other", overwrite=True)
    (place / "other/g").touch()
    (place / "other/g").unlink()

    def work(number: int) -> None:
        with (place / f"{number}").open("wb", buffering=0) as file:
            for at in range(50):
                file.write(b"%d" % at)
                os.fdatasync(file.fileno())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = os.fork()
    if child == 0:
        work(5)
        os._exit(0)
    os.waitpid(child, 0)


def tell_unseen(folder: str, say: Say) -> None:
    """Something that the recorder does not see."""
    with (Path(folder) / "f").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100)
