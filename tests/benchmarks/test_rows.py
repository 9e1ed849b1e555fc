"""Every row runs, and every peer gives back what it was given: with states of a few MB, so that none of it rots."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import chunk_size
from benchmarks.child import Failed
from benchmarks.disk import sync_tree, usage
from benchmarks.goals import UNMEASURED, judge
from benchmarks.machine import NOT_INSTALLED
from benchmarks.measure import RATE, Series
from benchmarks.memory import anonymous_bytes
from benchmarks.outcome import Outcome, Setting
from benchmarks.peers.all import PEERS, present
from benchmarks.peers.casckpt_store import CasckptStore
from benchmarks.peers.torch_files import TorchFiles
from benchmarks.rows import training, workloads
from benchmarks.rows.all import ROWS
from benchmarks.states import DTYPES, WORKLOADS, change, dense, nbytes, tenth
from tests.processes import PATIENCE, ROOT

SMALL = 2_000_000
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def setting(folder: Path, **more: object) -> Setting:
    return Setting(**{"size": SMALL, "repeats": 1, "dtype": "fp32", "quick": True, "folder": folder, **more})


@pytest.mark.parametrize("name", ROWS)
def test_a_row_measures_all_that_its_goals_need(name: str, tmp_path: Path) -> None:
    found = ROWS[name].measure(setting(tmp_path))
    assert Outcome.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    for goal in ROWS[name].goals:
        judged = judge(goal, found)
        assert judged.of is not None
        # what a peer loses in a few steps of a tiny model may be nothing
        assert judged.status != UNMEASURED or goal.pooled


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_is_measured_with_each_peer_that_is_there(
    workload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "present", lambda: ((CasckptStore, TorchFiles), {"restic": NOT_INSTALLED}))
    found = workloads.measure(WORKLOADS[workload], setting(tmp_path, size=200_000, dtype="bf16"))
    assert found.missing == {"restic": NOT_INSTALLED}
    for quantity in ("first save", "save", "load", "stored"):
        assert list(found.series[quantity]) == ["casckpt", "torch.save"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", present()[0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_peer_gives_back_the_newest_state_and_counts_all(kind: type, dtype: str, tmp_path: Path) -> None:
    state = dict(list(dense(200_000, dtype).items())[:6])
    peer = kind(tmp_path / "peer")
    peer.save(state)
    first = peer.stored()
    peer.forget_past()
    for tensor in state.values():
        change(tensor)
    peer.save(state)
    found = peer.load()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8))
    assert peer.stored() >= first > 0
    peer.close()
    assert not (tmp_path / "peer").exists()


def test_a_peer_without_its_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    there, missing = present()
    needing = {peer.name for peer in PEERS if peer.modules or peer.command}
    assert missing == dict.fromkeys(needing, NOT_INSTALLED)
    assert {peer.name for peer in there} | needing == {peer.name for peer in PEERS}


def test_all_rows_of_the_command_are_there_and_measured_apart(tmp_path: Path) -> None:
    arguments = ["--rows", "restore", "workload/tiny", "--size", "2MB", "--workload-sizes", "20kB", "--quick"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments, "--out", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "results.json").read_text())
    assert list(kept["rows"]) == ["restore", "workload/tiny/fp32/0.02 MB"]
    workload = kept["rows"]["workload/tiny/fp32/0.02 MB"]
    assert {*workload["series"]["save"], *workload["missing"]} == {peer.name for peer in PEERS}
    assert "`restore` in place, 10 % differs" in done.stdout
    assert (tmp_path / "results.md").exists()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_row_that_fails_leaves_the_others_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measure(name: str, setting: Setting) -> Outcome | Failed:
        asked.append(name)
        return Failed("OSError: no room") if name == "restore" else Outcome(note="measured")

    monkeypatch.setattr(command, "measure_apart", measure)
    assert command.main(["--rows", "restore", "load", "--out", str(tmp_path)]) == 1
    assert asked == ["load", "restore"]
    assert "restore failed: OSError: no room" in capsys.readouterr().err
    assert "Measured." in (tmp_path / "results.md").read_text()


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no row nonsense"):
        command.main(["--rows", "nonsense", "--out", str(tmp_path)])


def test_all_rows_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed[: len(ROWS)] == list(ROWS)
    assert {name.split("/")[1] for name in listed[len(ROWS) :]} == set(WORKLOADS)


@pytest.mark.parametrize(("text", "size"), [("1.2GB", 1_200_000_000), ("1 MiB", 1 << 20), ("20kB", 20_000)])
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert command.size(text) == size


def test_chunk_sizes_are_compared(tmp_path: Path) -> None:
    sizes = (256 << 10, 1 << 20)
    seconds = chunk_size.times(SMALL, 1, tmp_path, sizes)
    shares = chunk_size.stored(SMALL, tmp_path, sizes)
    made = chunk_size.page(seconds, shares, {"cpu": "one"})
    assert "| times the copy | copy | 256 KiB | 1 MiB |" in made
    for by_chunk in shares.values():
        assert 0 <= by_chunk["256 KiB"] <= by_chunk["1 MiB"] <= 1
    assert shares[WORKLOADS["rows"].title]["256 KiB"] > 0


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_workload_changes_what_it_says(name: str, dtype: str) -> None:
    workload = WORKLOADS[name]
    state, same = workload.build(SMALL, dtype), workload.build(SMALL, dtype)
    for key, tensor in state.items():
        assert torch.equal(tensor, same[key])
    workload.step(state, 1)
    changed = {key for key in state if not torch.equal(state[key].view(torch.uint8), same[key].view(torch.uint8))}
    expected = {
        "dense": set(state),
        "tenth": set(tenth(state)),
        "nothing": set(),
        "lora": {key for key in state if key.startswith("lora.")},
        "rows": set(state),
        "tiny": set(state),
    }
    assert changed == expected[name]


def test_a_dense_state_has_the_tensors_and_about_the_bytes_that_were_asked_for() -> None:
    state = dense(20_000_000, "bf16")
    assert len(state) == 144
    assert abs(nbytes(state) - 20_000_000) < 2_000_000


def test_what_a_folder_takes_is_counted_in_blocks(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(b"x" * 10_000)
    sync_tree(tmp_path)
    assert 10_000 <= usage(tmp_path) < 100_000
    assert anonymous_bytes() > 0


def test_what_checkpoints_cost_is_counted_against_the_blocks_on_both_sides() -> None:
    rates = {
        training.NONE: Series(RATE, (8.0, 9.0)),
        "one": Series(RATE, (6.0, 4.0)),
        "other": Series(RATE, (9.0, 10.0)),
    }
    found = training.lost(rates, [(10.0, 8.0), (6.0, 8.0), (12.0, 12.0)])
    assert {name: series.values for name, series in found.items()} == {"one": (0.25, 0.5), "other": (0.0, 0.0)}
