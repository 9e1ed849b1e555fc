"""Every command as a new user meets it: in a real terminal of 80 columns, in a pipe, without colours, interrupted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from casckpt import open as open_repository
from casckpt.cli.app import COMMANDS
from tests.cli.conftest import Casckpt
from tests.cli.terminal import COLUMNS, Terminal
from tests.processes import PATIENCE, ROOT

COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|10\d)(?:;\d+)*m")
PROGRESS = b"\x1b[?25l"  # the cursor is hidden
STYLE = re.compile(rb"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class Use:
    """How a command is used on the store "s" of `place`.

    says: what must be seen. styled: tables or fields are shown, with colours or dim. script: what a shell reads.
    """

    arguments: tuple[str, ...]
    says: str
    styled: bool = True
    script: bool = False

    def wide(self, lines: list[str]) -> list[str]:
        """The lines that are wider than they should be."""
        return [] if self.script else [line for line in lines if len(line) > COLUMNS]


# Of all commands but `demo`, which takes its time: test_demo runs it, in a terminal too.
USES = {
    "init": Use(("init", "new"), "is a store now", styled=False),
    "log": Use(("-C", "s", "log", "--all"), "loss 1.5"),
    "show": Use(("-C", "s", "show", "best:loss:min"), "at 30"),
    "ls": Use(("-C", "s", "ls", "model.*"), "model.one.weight"),
    "diff": Use(("-C", "s", "diff", "main~1", "--values"), "optimizer.state.0.exp_avg"),
    "status": Use(("-C", "s", "status"), "no other process"),
    "rollback": Use(("-C", "s", "rollback", "main~1"), "take it back", styled=False),
    "restore": Use(("-C", "s", "restore", "step:10", "--part", "model"), "take it back", styled=False),
    "branch": Use(("-C", "s", "branch"), "try-lr"),
    "tag": Use(("-C", "s", "tag"), "v1"),
    "switch": Use(("-C", "s", "switch", "try-lr"), "current branch", styled=False),
    "reflog": Use(("-C", "s", "reflog"), "main@{0}"),
    "prune": Use(("-C", "s", "prune", "--keep-last", "2"), "because of"),
    "gc": Use(("-C", "s", "gc"), "chunks", styled=False),
    "repack": Use(("-C", "s", "repack", "--codec", "small"), "looked at"),
    "fsck": Use(("-C", "s", "fsck", "--read-data"), "commits"),
    "compact": Use(("-C", "s", "compact"), "gave back", styled=False),
    "backup": Use(("-C", "s", "backup", "copy"), "copied", styled=False),
    "salvage": Use(("salvage", "s", "out"), "all that history led to came back"),
    "import": Use(("-C", "new", "import", "old"), "step_2.pt"),
    "watch": Use(("-C", "new", "watch", "old", "--settle", "0", "--once"), "step_2.pt", styled=False),
    "export": Use(("-C", "s", "export", "out.safetensors", "--part", "model"), "out.safetensors", styled=False),
    "stats": Use(("-C", "s", "stats", "--by-commit", "--codec"), "exp_avg_sq"),
    "config": Use(("-C", "s", "config"), "chunk_size"),
    "completion": Use(("completion", "bash"), "complete ", styled=False, script=True),
}


@pytest.fixture(scope="module")
def original() -> Iterator[Path]:
    """A folder with a short path that holds a store of real training, a file of weights, and old checkpoints."""
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    try:
        torch.manual_seed(0)
        net = torch.nn.ModuleDict({"one": torch.nn.Linear(60, 60), "two": torch.nn.Linear(60, 60)})
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        (folder / "old").mkdir()
        with open_repository(folder / "s", chunk_size=4096) as repo:
            for step in range(0, 40, 10):
                for parameter in net.parameters():
                    parameter.grad = torch.randn_like(parameter)
                optimizer.step()
                state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                metrics = {"loss": 3 - step / 20}
                repo.commit(state, f"at {step} " + "and so on " * 12, step=step, metrics=metrics)
                if step < 30:
                    torch.save(state, folder / "old" / f"step_{step // 10}.pt")
            repo.branch("try-lr", "step:20")
            repo.tag("v1", "step:10")
        save_file({name: tensor.clone() for name, tensor in net.state_dict().items()}, folder / "m.safetensors")
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def place(original: Path) -> Iterator[Path]:
    """A copy of that folder, to be changed."""
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    shutil.copytree(original, folder, dirs_exist_ok=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", USES)
def test_in_a_terminal_it_fits_is_coloured_and_ends_well(name: str, place: Path) -> None:
    use = USES[name]
    with Terminal("-m", "casckpt", *use.arguments, cwd=place) as terminal:
        code = terminal.end()
    assert code == 0, terminal.text
    assert use.says in terminal.text
    assert "Traceback" not in terminal.text
    assert use.wide(terminal.lines) == []
    if PROGRESS not in terminal.raw:  # which comes where it took long, and goes
        assert bool(STYLE.search(terminal.raw)) is use.styled, terminal.raw


@pytest.mark.parametrize("name", [name for name, use in USES.items() if use.styled])
def test_no_colour_where_none_is_wanted(name: str, place: Path) -> None:
    use = USES[name]
    with Terminal("-m", "casckpt", *use.arguments, cwd=place, environment={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0, terminal.text
    assert use.says in terminal.text
    assert not COLOUR.search(terminal.raw)


@pytest.mark.parametrize("name", USES)
def test_in_a_pipe_there_is_text_alone(name: str, place: Path) -> None:
    use = USES[name]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "casckpt", *use.arguments],
        cwd=place, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert use.says.encode() in ran.stdout
    assert b"\x1b" not in ran.stdout
    assert use.wide(ran.stdout.decode().splitlines()) == []


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_its_help_fits(name: str, casckpt: Casckpt) -> None:
    ran = casckpt(*name.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= COLUMNS
    assert ran.out.startswith(f"Usage: casckpt {name}".rstrip())


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------

# The command, held where its progress is told for the first time: an interrupt then comes in the midst of the work.
HELD = """
import sys, time
from casckpt.cli import main
from casckpt.cli.progress import Watch
told = Watch.__call__
def held(self, *arguments, **options):
    told(self, *arguments, **options)
    print("in the midst of it", flush=True)
    for _ in range(1200):  # a signal that another thread was given is answered between two of them
        time.sleep(0.05)
Watch.__call__ = held
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gc", "interrupted; "),
        ("repack", "interrupted; nothing was changed"),
        ("fsck", "interrupted; nothing was changed"),
        ("compact", "interrupted; the file was rewritten, or is as it was"),
        ("backup", "interrupted; "),
        ("import", "interrupted; "),
        ("export", "interrupted; out.safetensors is whole, or as it was"),
        ("diff", "interrupted; nothing was changed"),
    ],
)
def test_ctrl_c_in_the_midst_says_what_was_done_and_harms_nothing(name: str, said: str, place: Path) -> None:
    with Terminal("-c", HELD, *USES[name].arguments, cwd=place) as terminal:
        terminal.wait_for("in the midst of it")
        terminal.interrupt()
        assert terminal.end() == 130, terminal.text
    assert said in " ".join(terminal.text.split())
    assert "Traceback" not in terminal.text
    assert "\u2501" not in terminal.text  # no half a bar is left behind
    shutil.rmtree(place / "copy", ignore_errors=True)  # a small store may be copied before the interrupt comes
    with Terminal("-m", "casckpt", *USES[name].arguments, cwd=place) as terminal:
        assert terminal.end() == 0, terminal.text
    with open_repository(place / "s", create=False) as repo:
        assert repo.load("step:30")["step"] == 30


def test_ctrl_c_ends_the_demo(place: Path) -> None:
    with Terminal("-m", "casckpt", "demo", "d", "--short", cwd=place) as terminal:
        terminal.wait_for("train")
        terminal.interrupt()
        assert terminal.end() == 130, terminal.text
    assert "interrupted" in terminal.text
    assert "Traceback" not in terminal.text


def test_ctrl_c_is_how_watch_ends(place: Path) -> None:
    with Terminal("-m", "casckpt", "-C", "new", "watch", "old", "--settle", "0", cwd=place) as terminal:
        terminal.wait_for("step_2.pt")
        terminal.interrupt()
        assert terminal.end() == 0, terminal.text
    assert "Traceback" not in terminal.text
    with open_repository(place / "new", create=False) as repo:
        assert len(list(repo.log())) == 3


def test_every_command_has_its_use_here() -> None:
    assert {"demo", *USES} == set(COMMANDS)
