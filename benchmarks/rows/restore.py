"""Restoring a state in place when a tenth of it differs, beside a copy of all of it."""

from __future__ import annotations

import casckpt
from benchmarks.disk import check_room
from benchmarks.goals import Goal, Limit
from benchmarks.measure import alternate, timed
from benchmarks.outcome import Outcome, Setting
from benchmarks.rows.copying import Copy
from benchmarks.rows.row import Row
from benchmarks.states import change_tenth, dense, nbytes


def measure(setting: Setting) -> Outcome:
    state = dense(setting.size, setting.dtype)
    check_room(setting.folder, 2 * nbytes(state))
    with casckpt.open(setting.folder / "store") as repo:
        repo.commit(state)

        def restore() -> float:
            change_tenth(state, 0)
            with timed() as watch:
                repo.restore(state, "HEAD")
            return watch.seconds

        return Outcome({"time": alternate({"copy": Copy(state).turn, "casckpt": restore}, repeats=setting.repeats)})


RESTORE = Row(
    "restore",
    "restore in place, 10 % differs",
    measure,
    (Goal("`restore` in place, 10 % differs", "time", "casckpt", "copy", Limit(1.5), Limit(1.0)),),
)
