"""What every test run needs."""

from __future__ import annotations

import signal

# coverage's tracer must not follow into the children of forks, where it may wait for a lock for ever
from tests import processes as processes
from tests.trials import no_code

no_code.forbid()

# What a shell starts behind "&" ignores SIGINT, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
