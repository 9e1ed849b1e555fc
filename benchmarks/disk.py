"""Durable files for peers that leave that to the caller, what a folder takes on the disk, and room for all of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def sync_path(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """fsync a file or all of a folder, and the folder that holds it."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                sync_path(Path(folder) / name)
            sync_path(Path(folder))
    else:
        sync_path(path)
    sync_path(path.parent)


def settle() -> None:
    """Have the disk finish what others gave it, so that it is not billed to who writes next."""
    os.sync()


def usage(path: Path) -> int:
    """The bytes of disk that a file or folder takes."""
    if not path.is_dir():
        return path.stat().st_blocks * 512
    return sum((Path(folder) / name).lstat().st_blocks * 512 for folder, _, names in os.walk(path) for name in names)


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fresh(path: Path) -> Path:
    """An empty folder at this path."""
    remove(path)
    path.mkdir(parents=True)
    return path


def check_room(folder: Path, needed: int) -> None:
    """Raises OSError where less than this is free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{needed / 1e9:.1f} GB of disk are needed and {free / 1e9:.1f} GB are free: choose another --out"
        )
