"""Controls: stores that check less than they should, under which the trials must fail, or they prove nothing."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from casckpt.errors import CasckptError
from casckpt.history.fsck.check import fsck
from casckpt.history.fsck.findings import NOTHING
from casckpt.history.fsck.report import FsckReport
from casckpt.history.records import _counter
from casckpt.objects.ids import IdScheme, id_scheme
from casckpt.store.checked import COUNTERS
from casckpt.store.lmdb_store import open_store
from casckpt.store.pages import examine
from tests.trials.rot.damage import Map, damage, flip
from tests.trials.rot.look import look
from tests.trials.rot.onward import go_on
from tests.trials.rot.recipes import template_of
from tests.trials.rot.stores import Template
from tests.trials.warm import in_child

_DAMAGES = 60


def trial(seed: int, folder: Path) -> Counter[str]:
    """Whether the trials find out what is missing, for each check that may be."""
    outcomes: Counter[str] = Counter()
    for name, (work, template) in CONTROLS.items():
        made, known = template_of(template, folder)
        path = folder / f"{seed} {name}"
        path.mkdir()
        try:
            in_child(work, seed, path, made, known)
        except AssertionError as error:
            outcomes[f"without {name}: {_problem(error)}"] += 1
        else:
            outcomes[f"without {name}: nothing was noticed"] += 1
    return outcomes


def _problem(error: AssertionError) -> str:
    return next((words for words in SAID if words in str(error)), str(error))


class _Believed(bytes):
    """An id that is whatever it is compared to."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


def _without_ids(seed: int, path: Path, made: Template, known: Map) -> None:
    """What is read is not held against its id."""

    def believing(name: str) -> IdScheme:
        scheme = id_scheme(name)
        return replace(scheme, digest=lambda *what: _Believed(scheme.digest(*what)))

    reading_only = mock.patch("tests.trials.rot.look._go_on")
    with mock.patch("casckpt.history.maintained.id_scheme", believing), reading_only:
        _look_often(seed, path, made, known)


def _without_findings(seed: int, path: Path, made: Template, known: Map) -> None:
    """fsck is content, whatever it finds."""
    with mock.patch.object(FsckReport, "ok", True):
        _look_often(seed, path, made, known)


def _without_names(seed: int, path: Path, made: Template, known: Map) -> None:
    """fsck tells of what is wrong, and not of what is hurt by it."""

    def nameless(*what: Any, **more: Any) -> FsckReport:
        report = fsck(*what, **more)
        return replace(report, findings=tuple(replace(found, hurt=NOTHING) for found in report.findings))

    with mock.patch("tests.trials.rot.look.fsck", nameless):
        _look_often(seed, path, made, known)


def _look_often(seed: int, path: Path, made: Template, known: Map) -> None:
    for number in range(_DAMAGES):
        made.put(path)
        damage(random.Random(f"{seed} {number}"), made, known, path)
        look(path, made.view)


def _without_examination(seed: int, path: Path, made: Template, known: Map) -> None:
    """A file is not examined when it is opened."""
    for number in range(_DAMAGES):
        made.put(path)
        how = damage(random.Random(f"{seed} {number}"), made, known, path)
        with mock.patch("casckpt.store.opening._examine"):
            try:
                open_store(path, create=False).close()
            except CasckptError:
                continue
        assert not examine(path / "data.mdb").found, f"{how} was not refused"


def _without_keys(seed: int, path: Path, made: Template, known: Map) -> None:
    """A ref that is absent is believed to be."""
    with mock.patch("casckpt.history.records._check_not_elsewhere"):
        _go_on_without(random.Random(seed), path, made, known, b"branch/")


def _without_counting(seed: int, path: Path, made: Template, known: Map) -> None:
    """A counter of moves that is absent is believed to be 0, whatever moves there are."""
    with (
        mock.patch("casckpt.history.records._check_not_elsewhere"),
        mock.patch("casckpt.history.records.reflog_next", partial(_counter, key=COUNTERS[1])),
    ):
        _go_on_without(random.Random(seed), path, made, known, COUNTERS[1])


def _go_on_without(chance: random.Random, path: Path, made: Template, known: Map, key: bytes) -> None:
    """Hit the key of every record that begins so, in its last common byte or one behind it."""
    whole = made.files["data.mdb"]
    for at, _ in (span for spans in known.records.values() for span in spans):
        if whole[at:].startswith(key):
            made.put(path)
            data = bytearray(whole)
            flip(data, 8 * (at + len(key) - (key in COUNTERS)) + chance.randrange(2))
            (path / "data.mdb").write_bytes(data)
            with contextlib.suppress(CasckptError):  # by chance its keys are out of order now
                go_on(path, made.view, made.view.moves)


CONTROLS = {
    "ids": (_without_ids, "mixed"),
    "findings": (_without_findings, "mixed"),
    "names": (_without_names, "mixed"),
    "examination": (_without_examination, "deep"),
    "keys": (_without_keys, "mixed"),
    "counting": (_without_counting, "deep"),
}
SAID = (
    "is another",
    "fsck is content",
    "fsck says nothing",
    "was not refused",
    "not named by",
    "begins anew",
    "written over",
)
