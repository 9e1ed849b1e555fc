"""restic and borg: programs that back up a safetensors file, which is part of the time that a save takes."""

from __future__ import annotations

import os
import subprocess
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from safetensors.torch import load_file, save_file

from benchmarks.disk import fresh, remove, sync_tree, usage
from benchmarks.peers.peer import Peer
from benchmarks.states import State


class BackupTool(Peer):
    """A repository beside the file that is backed up; only the repository counts as stored."""

    secret: ClassVar[dict[str, str]]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._file = folder / "state.safetensors"
        self._repository = folder / "repository"
        self._number = 0
        self._call(*self.init())

    @abstractmethod
    def init(self) -> tuple[str, ...]:
        """The command that makes the repository."""

    @abstractmethod
    def backup(self, name: str) -> tuple[str, ...]:
        """The command that backs the file up under a name."""

    @abstractmethod
    def extract(self, name: str) -> tuple[str, ...]:
        """The command that writes what was backed up to the current folder."""

    def _call(self, *command: str, cwd: Path | None = None) -> None:
        home = {"HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache"), **self.secret}
        done = subprocess.run(
            command, cwd=cwd or self.folder, env={**os.environ, **home}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:2])}: {done.stderr.strip()}")

    def save(self, state: State) -> None:
        self._number += 1
        save_file(state, self._file)
        self._call(*self.backup(f"save-{self._number}"))
        sync_tree(self._repository)

    def load(self) -> State:
        place = fresh(self.folder / "extracted")
        self._call(*self.extract(f"save-{self._number}"), cwd=place)
        (path,) = place.rglob(self._file.name)
        found = {name: tensor.clone() for name, tensor in load_file(path).items()}
        remove(place)
        return found

    def stored(self) -> int:
        return usage(self._repository)


class Restic(BackupTool):
    name = "restic"
    command = "restic"
    secret: ClassVar = {"RESTIC_PASSWORD": "benchmark"}

    def _restic(self, *arguments: str) -> tuple[str, ...]:
        return ("restic", "-q", "-r", str(self._repository), *arguments)

    def init(self) -> tuple[str, ...]:
        return self._restic("init")

    def backup(self, name: str) -> tuple[str, ...]:
        return self._restic("backup", "--tag", name, self._file.name)

    def extract(self, name: str) -> tuple[str, ...]:
        return self._restic("restore", "latest", "--tag", name, "--target", ".")


class Borg(BackupTool):
    name = "borg"
    command = "borg"
    secret: ClassVar = {"BORG_PASSPHRASE": "", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}

    def init(self) -> tuple[str, ...]:
        return ("borg", "init", "--encryption", "none", str(self._repository))

    def backup(self, name: str) -> tuple[str, ...]:
        return ("borg", "create", f"{self._repository}::{name}", self._file.name)

    def extract(self, name: str) -> tuple[str, ...]:
        return ("borg", "extract", f"{self._repository}::{name}")
