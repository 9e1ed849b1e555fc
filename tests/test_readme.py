"""What the README shows works as it is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_quick_start_runs(tmp_path) -> None:
    (source,) = [block for block in blocks("python") if not block.startswith("# not run")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    (command,) = [block.strip() for block in blocks("sh") if block.startswith("casckpt")]
    arguments = command.split()[1:]
    log = subprocess.run(
        [sys.executable, "-m", "casckpt", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert log.returncode == 0, log.stderr
    assert "step 3" in log.stdout and "other-rate" in log.stdout and "good" in log.stdout


def test_the_scripts_that_are_only_shown_are_python() -> None:
    for source in blocks("python"):
        compile(source, "README.md", "exec")


def test_nothing_in_it_is_still_to_be_filled_in() -> None:
    assert not re.findall(r"\b[A-Z]+_[A-Z]+\b", README)


def test_every_file_that_it_points_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
