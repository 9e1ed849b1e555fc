"""Damage to a data file while a process has it open: that process may be killed by it, but is never shown wrong bytes.

A mapped file that is cut short kills who reads behind its end (SIGBUS), and LMDB believes pages that it has mapped. So
nobody promises more for it; whoever opens the store next is told, as ever.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from casckpt.errors import CasckptError
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store
from tests.history.world import commit
from tests.trials.rot.damage import Map, cut, damage
from tests.trials.rot.look import NEW, look
from tests.trials.rot.recipes import template_of
from tests.trials.rot.stores import TEMPLATES, Template
from tests.trials.rot.view import View, log_of, state_of
from tests.trials.warm import fork, in_child

_TAKES: Final = 20
"""Seconds that a process may take for all of it; one that takes longer hangs."""
_DEATHS: Final = {signal.SIGBUS: "is killed", signal.SIGSEGV: "is killed", signal.SIGABRT: "is killed"}


def trial(seed: int, folder: Path) -> Counter[str]:
    """A process has a store open, reads, is damaged under, and reads or commits on; then another one opens it."""
    chance = random.Random(f"open {seed}")
    made, known = template_of(list(TEMPLATES)[seed % len(TEMPLATES)], folder)
    path = folder / str(seed)
    path.mkdir()
    try:
        made.put(path)
        outcome, made_then = _under_open(chance, path, made, known)
        view = replace(made.view, states={**made.view.states, **made_then})
        after = in_child(look, path, view, False)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from None
    finally:
        shutil.rmtree(path)
    return Counter({f"while open: {outcome}; then {after}": 1})


def _under_open(chance: random.Random, path: Path, made: Template, known: Map) -> tuple[str, dict[str, str]]:
    """Returns what became of the process, and the commit that it was told is made, if any, with what it must show."""
    writes = chance.randrange(3) == 0
    reads_first = bool(chance.randrange(2))
    ours, theirs = os.pipe(), os.pipe()
    child = fork()
    if child == 0:
        _have_open(path, made.view, reads_first, writes, ours[1], theirs[0])
    os.close(ours[1])
    os.close(theirs[0])
    with os.fdopen(ours[0], "rb", buffering=0) as hear, os.fdopen(theirs[1], "wb", buffering=0) as say:
        assert _line(hear) == b"open\n"
        how = _damage_in_place(chance, path, made, known)
        say.write(b"go on\n")
        said = _line(hear)
        if said is None:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert said is not None, f"{how}: who had it open hangs"
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        assert signal.Signals(-code) in _DEATHS, f"{how}: who had it open ended with {code}"
        return "it is killed", {}
    assert code == 0 and not said.startswith(b"BROKEN"), f"{how}: who had it open: {said.decode()}"
    outcome, *commit = said.decode().strip().split("|")
    return outcome, {commit[0]: commit[1]} if commit else {}


def _damage_in_place(chance: random.Random, path: Path, made: Template, known: Map) -> str:
    """As `damage`, or cut short, to the file that is mapped, not to another in its place."""
    hurts = cut if chance.randrange(4) == 0 else damage
    aside = path.parent / f"{path.name} damaged"
    aside.mkdir()
    try:
        made.put(aside)
        how = hurts(chance, made, known, aside)
        _rewrite(path / "data.mdb", made.files["data.mdb"], (aside / "data.mdb").read_bytes())
    finally:
        shutil.rmtree(aside)
    return how


def _rewrite(data: Path, whole: bytes, damaged: bytes) -> None:
    """Change what is damaged, and nothing else: others may have written since."""
    with data.open("rb+") as file:
        for at in range(0, len(damaged), 64):
            if whole[at : at + 64] != damaged[at : at + 64]:
                file.seek(at)
                file.write(damaged[at : at + 64])
        if len(damaged) < len(whole):
            file.truncate(len(damaged))


def _have_open(path: Path, view: View, reads_first: bool, writes: bool, say: int, hear: int) -> None:
    """The process that has it open; it never returns."""
    said, acknowledged = "BROKEN: it came to nothing", ""
    try:
        signal.alarm(_TAKES)
        with contextlib.suppress(CasckptError), History(open_store(path, create=False)) as history:
            if reads_first:
                _read(history, view)
            os.write(say, b"open\n")
            os.read(hear, 100)
            said = "it is told"
            try:
                said = "nothing shows" if _read(history, view) else "it is told"
                if writes:
                    made = commit(history, NEW).id
                    acknowledged = f"|{made}|{state_of(history, made)}"
                    history.gc()
            except CasckptError:
                said = "it is told"
    except BaseException as error:
        said = f"BROKEN: {error!r}"
    with contextlib.suppress(OSError):
        os.write(say, f"{said[:4000]}{acknowledged}\n".encode())
    os._exit(0)


def _read(history: History, view: View) -> bool:
    """Whether everything is there, and is what it was."""
    whole = True
    try:
        log_of(history)
    except CasckptError:
        whole = False
    for oid, expected in view.states.items():
        try:
            found = state_of(history, oid)
        except CasckptError:
            whole = False
            continue
        assert found in (expected, view.released.get(oid)), f"commit {oid} is another"
    return whole


def _line(pipe) -> bytes | None:  # type: ignore[no-untyped-def]
    """A line; what is left of one where the other side ended; None where nothing comes."""
    said = b""
    while not said.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], 2 * _TAKES)
        if not ready:
            return None
        more = pipe.read(4000)
        if not more:
            return said
        said += more
    return said
