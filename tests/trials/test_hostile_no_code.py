"""No load, restore, import, export or check comes to anything that could run code out of data (P6)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

# All that loads, restores, imports from formats other than pickles, exports and checks, and is done in seconds.
SUITE = (
    "tests/tensors/test_untrusted.py",
    "tests/tensors/test_round_trip.py",
    "tests/tensors/formats/test_round_trips.py",
    "tests/cli/test_export.py",
    "tests/cli/test_import.py",
    "tests/cli/test_restore.py",
    "tests/cli/test_fsck.py",
)


def suite(*tests: str | Path) -> subprocess.CompletedProcess[str]:
    """Run tests with every way to code out of data patched to raise."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "tests.trials.no_code", *tests],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_nothing_that_could_run_code_is_come_to() -> None:
    ended = suite(*SUITE)
    assert ended.returncode == 0, ended.stdout[-6000:]
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert passed is not None and int(passed[1]) > 100


def test_it_would_be_seen(tmp_path: Path) -> None:
    harmed = tmp_path / "test_harmed.py"
    harmed.write_text(
        "import pickle\n"
        "from casckpt.objects import tree\n"
        "def test_a_load_that_unpickles(monkeypatch):\n"
        "    class Pickles:\n"
        "        decode = staticmethod(lambda raw: pickle.loads(raw))\n"
        "    monkeypatch.setattr(tree, '_unpacker', Pickles)\n"
        "    tree.decode_tree(pickle.dumps(1), 16)\n"
    )
    ended = suite(harmed)
    assert ended.returncode == 1 and "RanCodeError" in ended.stdout
