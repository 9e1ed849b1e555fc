"""A program that does all that the recorder must tell of, and one that does more."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from casckpt.tensors.formats.swap import put_folder
from tests.trials.power.story import Say


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
