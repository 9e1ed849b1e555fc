"""The benchmark of coding: every coder gives back what it got, figures are judged as the table says, all of it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import codec as command
from benchmarks.coding import found as kept
from benchmarks.coding import goals, report, runs, speed
from benchmarks.coding.coders import CODERS, Auto, Coder, Small, ZipNN
from benchmarks.coding.found import Found
from benchmarks.coding.goals import Goal, judge
from benchmarks.coding.speed import Coded, Measured, NotGivenBackError
from benchmarks.coding.streams import Piece, Stream, name_of, read
from benchmarks.goals import AIM, MISSED, REACHED, UNMEASURED
from benchmarks.machine import NOT_INSTALLED
from benchmarks.measure import SHARE, Series, Spread
from benchmarks.report import pages, plots
from casckpt.limits import DEFAULT_CHUNK_SIZE
from casckpt.objects.encoding import Base
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.objects.words import Words
from tests.processes import PATIENCE, ROOT

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # ZipNN's import
PRESENT = [coder for coder in CODERS if coder.missing() is None]


def piece(width: int, count: int, *, over_base: bool) -> Piece:
    """Numbers as weights are, and some steps before."""
    random = np.random.default_rng(count)
    now = random.normal(0, 0.02, count).astype(np.float32)
    before = now + random.normal(0, 1e-5, count).astype(np.float32)
    raw, base = ((numbers.view(np.uint32) >> (32 - 8 * width)).astype(f"<u{width}").data for numbers in (now, before))
    raw, base = memoryview(raw).cast("B"), memoryview(base).cast("B")
    parent = Base(XXH3_128.digest(Kind.CHUNK, base), base, 0) if over_base else None
    return Piece(XXH3_128.digest(Kind.CHUNK, raw), raw, Words(width, True), parent)


@pytest.mark.parametrize("kind", PRESENT, ids=lambda kind: kind.name)
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("count", [64, 5000, 70_000])
def test_a_coder_gives_back_what_it_got_and_leaves_it_as_it_was(kind: type[Coder], width: int, count: int) -> None:
    one = piece(width, count, over_base=kind.over_base)
    before = bytes(one.raw)
    for threads in speed.THREADS:
        coder = kind(threads)
        for _ in range(2):
            packed = coder.encode(one, coder.ready(one))
            assert bytes(one.raw) == before
            out = memoryview(bytearray(len(before)))
            assert memoryview(coder.decode(one, packed, out)).cast("B") == before


def test_a_coder_that_gives_back_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "decode", lambda self, piece, packed, out: out)
    stream = Stream("run", "weights", None, (piece(4, 5000, over_base=False),))
    with pytest.raises(NotGivenBackError, match="casckpt small"):
        speed.measure(stream, 1, 0.0)


@pytest.mark.parametrize("threads", speed.THREADS)
def test_each_turn_codes_each_piece_as_often_as_any_other(threads: int) -> None:
    seen: list[tuple[str, int, int]] = []

    class Counting(Auto):
        def encode(self, piece: Piece, ready: Any) -> Any:
            seen.append(("encode", len(piece.raw), threading.get_ident()))
            return super().encode(piece, ready)

        def decode(self, piece: Piece, packed: Any, out: memoryview) -> Any:
            seen.append(("decode", len(piece.raw), threading.get_ident()))
            return super().decode(piece, packed, out)

    stream = Stream("run", "weights", None, tuple(piece(4, count, over_base=False) for count in (100, 200, 300)))
    with ThreadPoolExecutor(2) as pool:
        bench = speed._Bench(Counting(threads), stream, threads, pool, 10.0)
        for what, turn in (("encode", bench.encode), ("decode", bench.decode)):
            seen.clear()
            assert turn() > 0
            assert {kind for kind, _, _ in seen} == {what}
            counts = [sum(size == 4 * count for _, size, _ in seen) for count in (100, 200, 300)]
            assert counts == [speed._MOST_PASSES] * 3


def test_streams_are_cut_as_the_store_cuts_and_lie_over_what_stood_there_before(tmp_path: Path) -> None:
    scale = runs.QUICK
    large = DEFAULT_CHUNK_SIZE // 4 + 1000
    arrays = {step: np.full(large, step, np.uint32) for step in scale.captured}
    np.savez(tmp_path / "captured.npz", **{f"{step}/weights/blocks.0": array for step, array in arrays.items()})
    found = list(read("run", tmp_path / "captured.npz", scale))
    assert [stream.back for stream in found] == [None, *scale.backs]
    for stream in found:
        assert [len(one.raw) for one in stream.pieces] == [DEFAULT_CHUNK_SIZE, 4000]
        assert stream.size == 4 * large
        for one in stream.pieces:
            assert set(np.frombuffer(one.raw, np.uint32)) == {scale.at}
            assert (one.base is None) == (stream.back is None)
            if one.base is not None and stream.back is not None:
                assert set(np.frombuffer(one.base.raw, np.uint32)) == {scale.at - stream.back}


def test_a_scale_comes_through_json_as_it_was() -> None:
    assert runs.Scale.loads(runs.FULL.dumps()) == runs.FULL


@pytest.mark.parametrize("scale", [runs.FULL, runs.QUICK])
def test_a_scale_holds_together(scale: runs.Scale) -> None:
    assert min(scale.captured) >= scale.frozen_from > 0
    assert len(scale.committed) == scale.commits >= scale.pruned
    assert scale.committed[-1] <= scale.steps and scale.committed[0] > scale.frozen_from


@pytest.mark.parametrize(
    ("at_least", "value", "status"),
    [
        (True, 1.7, AIM),
        (True, 1.69, REACHED),
        (True, 1.55, REACHED),
        (True, 1.54, MISSED),
        (False, 1.55, AIM),
        (False, 1.56, REACHED),
        (False, 1.7, REACHED),
        (False, 1.71, MISSED),
    ],
)
def test_more_is_better_or_less_is(at_least: bool, value: float, status: str) -> None:
    must, aim = (1.55, 1.7) if at_least else (1.7, 1.55)
    goal = Goal("small", lambda found: Spread.of((value,)), must, aim, at_least)
    assert judge(goal, empty()).status == status


def test_what_was_not_measured_is_never_reached() -> None:
    assert {judge(goal, empty()).status for goal in goals.goals(runs.FULL)} == {UNMEASURED}


def test_without_zipnn_what_is_held_against_it_is_not_measured() -> None:
    found = empty()
    found.streams["AdamW fp32, weights, alone"] = measured("AdamW fp32, weights, alone", Auto.name)
    against = [goal for goal in goals.goals(runs.FULL) if goal.title.endswith("no parent: size against ZipNN's")]
    assert against and {judge(goal, found).status for goal in against} == {UNMEASURED}


def test_speeds_are_compared_within_a_repeat() -> None:
    name = name_of("AdamW fp32", "weights", None)
    found = empty()
    found.streams[name] = measured(name, Auto.name, ZipNN.name)
    speeds = found.streams[name].coded
    speeds[Auto.name].speeds["encode cpu"] = Series(speed.SPEED, (1.0, 10.0, 100.0))
    speeds[ZipNN.name].speeds["encode cpu"] = Series(speed.SPEED, (0.5, 5.0, 50.0))
    faster = next(goal for goal in goals.goals(runs.FULL) if goal.title == "… encoded, against ZipNN")
    assert judge(faster, found).found == Spread(2.0, 2.0, 2.0, 0.0)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=4), st.floats(1, 9))
def test_a_run_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, few: list[float], one: float
) -> None:
    path = tmp_path_factory.mktemp("codec") / "codec.json"
    found = empty()
    found.streams["a"] = Measured(
        "a", 7, {"x": Coded(one, {"encode 1": Series(speed.SPEED, tuple(few))}, {"raw": 2})}, Series(SHARE, (0.1,))
    )
    found.stores["load"] = {"auto": Series("s", tuple(few))}
    found.notes["load"] = "deep"
    found.write(path, [])
    assert kept.read(path) == found


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": 99}'])
def test_what_is_no_run_is_not_taken_for_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "codec.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a file of this benchmark"):
        kept.read(path)


def test_a_coder_without_its_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert {coder.missing() for coder in CODERS if coder.modules} == {NOT_INSTALLED}
    assert {coder.missing() for coder in CODERS if not coder.modules} == {None}


def test_the_whole_of_it_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.codec", "--quick", "--out", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=8 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found = kept.read(tmp_path / "codec.json")
    assert {stream.rsplit(", ", 2)[0] for stream in found.streams} == set(runs.RUNS)
    for one in found.streams.values():
        for coded in one.coded.values():
            assert coded.ratio > 0.9
            assert set(coded.speeds) == {f"{what} {how}" for what in speed.DIRECTIONS for how in (1, 2, "cpu")}
    judged = json.loads((tmp_path / "codec.json").read_text())["goals"]
    unmeasured = {one["title"] for one in judged if one["status"] == UNMEASURED}
    assert not unmeasured or "ZipNN" in found.missing
    assert all("ZipNN" in title for title in unmeasured)
    assert "| what | must reach |" in done.stdout
    assert done.stdout.strip() in (tmp_path / "codec.md").read_text()
    assert (tmp_path / "codec.png").exists() == plots.available()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_page_of_nothing_can_be_made() -> None:
    assert "not measured" in report.whole(empty(), [judge(goal, empty()) for goal in goals.goals(runs.FULL)])


def test_the_page_gets_the_tables_and_nothing_else_changes(tmp_path: Path) -> None:
    page = tmp_path / pages.PAGE
    page.parent.mkdir()
    before = (ROOT / pages.PAGE).read_text()
    page.write_text(before)
    judged = [judge(goal, empty()) for goal in goals.goals(runs.FULL)]
    command.show(empty(), judged, tmp_path)
    once = page.read_text()
    assert report.goals(judged) in pages.between(once, command.GOALS)
    command.show(empty(), judged, tmp_path)
    assert page.read_text() == once
    assert once.split(command.GOALS)[0] == before.split(command.GOALS)[0]
    assert (
        once.split(command.DETAILS)[1].split(pages.END, 1)[1] == before.split(command.DETAILS)[1].split(pages.END, 1)[1]
    )


def empty() -> Found:
    described = dict.fromkeys(("cpu", "cores", "memory", "kernel", "huge pages", "file system", "python"), "1")
    return Found("2026-11-21", described, {"repeats": 3})


def measured(name: str, *coders: str) -> Measured:
    speeds = {f"{what} {how}": Series(speed.SPEED, (1.0,)) for what in speed.DIRECTIONS for how in (1, 2, "cpu")}
    return Measured(name, 10, {coder: Coded(2.0, dict(speeds)) for coder in coders}, Series(SHARE, (0.01,)))
