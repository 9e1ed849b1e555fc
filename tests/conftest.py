"""What every test run needs."""

from __future__ import annotations

# coverage's tracer must not follow into the children of forks, where it may wait for a lock for ever
from tests import processes as processes
