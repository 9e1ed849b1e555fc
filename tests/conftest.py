"""What every test run needs."""

from __future__ import annotations

import gc
import signal

import pytest

from tests import tracing
from tests.trials import no_code

tracing.follow_all_threads()
no_code.forbid()

# What a shell starts behind "&" ignores SIGINT, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tracing.leave_out(items)


def pytest_collection_finish() -> None:
    """What is there by now stays: tests and benchmarks collect garbage time and again, and need not look at that."""
    gc.freeze()
