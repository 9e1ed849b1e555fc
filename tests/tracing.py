"""What coverage's tracer must follow, and what it must not.

It sees only the threads of `threading`, and casckpt starts most of its own below that. It takes a lock, which another
thread may hold at a fork. And it doubles the time of a test, mostly in what is not casckpt.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

_tracer = threading.local()
_start = _thread.start_new_thread


def _stop_tracing() -> None:
    _tracer.held = sys.gettrace()
    sys.settrace(None)


def _trace_this_thread() -> None:
    """At once: else the tracer would be put in place within the work, where it must not fail. It does while another
    thread is at that; then this one goes untraced."""
    trace = threading.gettrace()
    if trace is not None:
        with contextlib.suppress(RuntimeError):
            trace(sys._getframe(), "call", None)


def _start_traced(work: Callable[..., object], given: tuple[Any, ...], named: dict[str, Any] | None = None) -> int:
    def traced(*given: Any, **named: Any) -> None:
        _trace_this_thread()
        work(*given, **named)

    return _start(work if threading.gettrace() is None else traced, given, named or {})


def follow_all_threads() -> None:
    """Before casckpt is imported: have its own threads traced, wherever those of `threading` are."""
    _thread.start_new_thread = _start_traced  # type: ignore[assignment]


# A traced child of a fork would wait for that lock for ever. It goes untraced; so do all forks of the test run.
os.register_at_fork(before=_stop_tracing, after_in_parent=lambda: sys.settrace(_tracer.held))


def leave_out(items: list[pytest.Item]) -> None:
    """Have those untraced that hardly come to a line to which others do not come: tests of properties, which come to
    the same a hundred times; of benchmarks; trials, whose work is done in children; all cases of a test but two."""
    seen: Counter[str] = Counter()
    for item in items:
        test = item.nodeid.partition("[")[0]
        seen[test] += 1
        is_property = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if is_property or seen[test] > 2 or item.nodeid.startswith(("tests/benchmarks/", "tests/trials/")):
            item.add_marker(pytest.mark.no_cover)
