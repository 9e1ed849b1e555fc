"""Runs the code of a page as a reader would, in a folder of its own, and says what came out of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import Block, blocks, commands, is_run, output_of
from tests.processes import ROOT

# Where the pages' reader works, and on which machine.
HOME = "/home/ada"
HOST = "gpu-1"
PATIENCE = 120


class Interpreter:
    """One process for the Python of all pages."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.docs.interpreter"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._busy = False

    def begin(self, folder: Path) -> None:
        self._say(str(folder))
        self._busy = True

    def run(self, source: str, name: str) -> str:
        """What a block prints; fails if it raises."""
        self._say({"source": source, "name": name})
        answer = json.loads(self._read())
        assert not answer["error"], answer["error"]
        printed: str = answer["printed"]
        return printed

    def end(self) -> None:
        """The end of a page: its process is gone."""
        if self._busy:
            self._busy = False
            self._say(None)
            assert json.loads(self._read()) == "ended"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _say(self, what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the interpreter of the pages is gone"
        return line


@dataclass(frozen=True)
class Outcome:
    """What code printed, and what the page shows behind it. source: the code, and all up to what is shown."""

    block: Block
    where: str
    source: str
    shown: str
    printed: str


def promised(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    """What is shown and what was printed, where numbers are promised."""
    return [(outcome.shown, outcome.printed) for outcome in outcomes if not outcome.block.numbers_vary]


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    """A new folder whose path is as long as HOME, so that tables are cut as readers see them."""
    for number in range(1000, 10000):
        folder = Path(tempfile.gettempdir()) / str(number)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _environment(tools: Path) -> dict[str, str]:
    for name, module in (("casckpt", "-m casckpt"), ("python", "")):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W error {module} "$@"\n')
        tool.chmod(0o755)
    return {
        "PATH": os.pathsep.join([str(tools), *os.environ.get("PATH", "/usr/bin:/bin").split(os.pathsep)]),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "80",
        "LC_ALL": "C.UTF-8",
    }


def run_page(page: Path, interpreter: Interpreter, *, long: bool) -> list[Outcome]:
    """Run all of a page, long blocks only where that is wanted. Fails at the first one that has no good end."""
    text = page.read_text()
    found: list[Outcome] = []
    with _place() as folder, tempfile.TemporaryDirectory() as tools:
        environment = _environment(Path(tools)) | {"HOME": str(folder)}
        try:
            for block in blocks(text):
                where = f"{page.relative_to(ROOT)}:{block.line}"
                if block.language == "python":
                    compile(block.text, where, "exec")
                if not is_run(block) or (block.is_long and not long):
                    continue
                if block.title is not None:
                    (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
                    (folder / block.title).write_text(block.text)
                elif block.language == "python":
                    if not interpreter._busy:
                        interpreter.begin(folder)
                    printed = _told(interpreter.run(block.text, where), folder)
                    output = output_of(block, text)
                    if output is not None:
                        source = text[block.start : output.start]
                        found.append(Outcome(output, where, source, output.text, printed))
                elif block.language == "sh":
                    _shell(block.text, folder, environment, where)
                else:
                    found += _console(block, folder, environment, where)
        finally:
            interpreter.end()
    return found


def _console(block: Block, folder: Path, environment: dict[str, str], where: str) -> list[Outcome]:
    found = []
    for command in commands(block):
        printed = _told(_shell(command.line, folder, environment, f"{where}: {command.line}"), folder)
        found.append(Outcome(block, f"{where}: {command.line}", f"\n$ {command.line}\n", command.output, printed))
    return found


def _shell(source: str, folder: Path, environment: dict[str, str], where: str) -> str:
    done = subprocess.run(
        ["sh", "-e", "-c", source],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{where} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def _told(printed: str, folder: Path) -> str:
    """An output as the pages' reader would have got it."""
    return printed.replace(str(folder), HOME).replace(socket.gethostname(), HOST)
