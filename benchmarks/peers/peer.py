"""What a peer must be able to do, and what those share that write a file for each save."""

from __future__ import annotations

import importlib.util
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks.disk import remove, sync_tree, usage
from benchmarks.machine import NOT_INSTALLED
from benchmarks.states import State


class Peer(ABC):
    """A place where one system keeps saves of one state. name: as in the tables. modules, command: what it needs."""

    name: str
    modules: tuple[str, ...] = ()
    command: str | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot be measured here; None: it can."""
        if cls.command is not None and shutil.which(cls.command) is None:
            return NOT_INSTALLED
        return None if all(importlib.util.find_spec(module) for module in cls.modules) else NOT_INSTALLED

    @abstractmethod
    def save(self, state: State) -> None:
        """Save the next version; durable when this returns."""

    @abstractmethod
    def load(self) -> State:
        """The newest version, in memory of its own."""

    def stored(self) -> int:
        """Bytes of disk that all saves so far take."""
        return usage(self.folder)

    def forget_past(self) -> None:  # noqa: B027  # most have nothing to forget
        """Delete what earlier saves alone need, where that changes nothing for the next; it stays counted."""

    def close(self) -> None:
        """Let go of everything and delete it."""
        remove(self.folder)


class FilePeer(Peer):
    """Each save is a file or folder of its own. Only the newest stays on the disk; the others are counted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._past = 0
        self._number = 0

    @property
    def newest(self) -> Path:
        return self.folder / f"save-{self._number}"

    def save(self, state: State) -> None:
        self._number += 1
        self.write(state, self.newest)
        sync_tree(self.newest)

    @abstractmethod
    def write(self, state: State, path: Path) -> None:
        """Write the state to a path where nothing is."""

    def load(self) -> State:
        return self.read(self.newest)

    @abstractmethod
    def read(self, path: Path) -> State:
        """What is there, in memory of its own."""

    def stored(self) -> int:
        return self._past + usage(self.folder)

    def forget_past(self) -> None:
        self._past += usage(self.newest)
        remove(self.newest)
