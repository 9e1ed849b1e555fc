"""All rows by name, in the order of the table."""

from __future__ import annotations

from benchmarks.rows.commits import FIRST, NOTHING
from benchmarks.rows.loads import FRESH, OTHER_WAYS, REUSED
from benchmarks.rows.peak import PEAK
from benchmarks.rows.restore import RESTORE
from benchmarks.rows.row import Row
from benchmarks.rows.small import LONG_HISTORY, MANY_TENSORS
from benchmarks.rows.stall import ANOTHER_TENTH, DENSE, TENTH
from benchmarks.rows.startup import STARTUP
from benchmarks.rows.training import TRAINING

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        NOTHING,
        DENSE,
        TENTH,
        ANOTHER_TENTH,
        FIRST,
        FRESH,
        OTHER_WAYS,
        REUSED,
        RESTORE,
        MANY_TENSORS,
        PEAK,
        LONG_HISTORY,
        TRAINING,
        STARTUP,
    )
}
