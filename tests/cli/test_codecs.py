"""What people are told of how chunks are stored: `stats --codec`, `repack`, and what gc re-encodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import casckpt as package
from casckpt.cli.codecs import human_ratio
from casckpt.cli.progress import Watch
from casckpt.cli.units import human_bytes
from casckpt.history.bases import all_bases, base_of
from casckpt.store.protocol import Space
from tests.cli.conftest import Casckpt
from tests.equality import assert_same


def states(count: int) -> list[dict[str, object]]:
    """Dense steps of something like Adam: every number moves, by a little."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(12_288, generator=generator)
    averages = {name: torch.rand(12_288, generator=generator) for name in ("exp_avg", "exp_avg_sq")}
    found = []
    for step in range(count):
        weights = weights * (1 + 1e-4 * torch.randn(12_288, generator=generator))
        averages = {name: average * 0.999 for name, average in averages.items()}
        optimizer = {"state": {0: dict(averages)}, "param_groups": [{"lr": 0.1}]}
        found.append({"model": {"w": weights}, "optimizer": optimizer, "step": step})
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Five commits, of 9 chunks each."""
    with package.open(tmp_path / "s", chunk_size=16384) as repo:
        for step, state in enumerate(states(5)):
            repo.commit(state, f"at {step}", step=step)
    return tmp_path / "s"


def rows(out: str, title: str) -> dict[str, list[str]]:
    """The table that has this title over its first column: by the first cell, the others."""
    (table,) = [part for part in out.split("\n\n") if part.split(maxsplit=1)[0] == title]
    lines = [line.split("  ") for line in table.splitlines()[1:]]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:] if cell.strip()] for cells in lines}


def test_stats_tell_how_chunks_are_stored(casckpt: Casckpt, store: Path) -> None:
    out = casckpt("-C", store, "stats", "--codec").out
    assert max(map(len, out.splitlines()[1:])) <= 80
    programs = casckpt("-C", store, "stats", "--codec", "--json").json["codec"]
    codecs = rows(out, "codec")
    assert codecs["all"][0] == "45" and programs["total"]["chunks"] == 45
    assert {name.replace(" ", "_"): int(cells[0]) for name, cells in codecs.items() if name != "all"} == {
        name: found["chunks"] for name, found in programs["by_codec"].items()
    }
    assert {name: cells[0] for name, cells in rows(out, "holds").items()} == dict.fromkeys(
        ("weights", "exp_avg", "exp_avg_sq"), "15"
    )
    depths = rows(out, "deltas")
    assert depths.keys() == programs["by_depth"].keys() == {"0", "1", "2"}
    assert float(depths["1"][3]) > 1.4 > float(depths["0"][3])
    assert [entry["step"] for entry in programs["by_commit"]] == [4, 3, 2, 1, 0]
    assert {entry["chunks"] for entry in programs["by_commit"]} == {9}
    weights = programs["by_group"]["weights"]
    assert weights["ratio"] == weights["raw"] / weights["stored"] and weights["raw"] == 5 * 4 * 12_288
    assert len(rows(casckpt("-C", store, "stats", "--codec", "-n", 2).out, "commit")) == 2
    assert len(casckpt("-C", store, "stats", "--codec", "-n", 2, "--json").json["codec"]["by_commit"]) == 2
    assert "codec" not in casckpt("-C", store, "stats", "--json").json


def test_stats_of_an_empty_store_have_no_empty_tables(casckpt: Casckpt, tmp_path: Path) -> None:
    package.open(tmp_path / "s").close()
    ran = casckpt("-C", tmp_path / "s", "stats", "--codec")
    assert (ran.code, list(rows(ran.out, "codec"))) == (0, ["all"])
    assert "holds" not in ran.out and "deltas" not in ran.out


def test_repack_says_what_it_would_do_and_does_it(casckpt: Casckpt, store: Path) -> None:
    before = casckpt("-C", store, "stats", "--json").json["stored"]
    would = casckpt("-C", store, "repack", "--codec", "small", "--dry-run", "--json").json
    assert casckpt("-C", store, "stats", "--json").json["stored"] == before
    assert (would["dry_run"], would["mode"], would["commits"], would["chunks"]) == (True, "small", 5, 45)
    out = casckpt("-C", store, "repack", "--codec", "small").out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-3] == "looked at 45 chunks of 5 commits, in mode small"
    assert lines[-2].startswith(f"repack re-encoded {would['reencoded_chunks']} chunks: ")
    assert lines[-1].endswith("`casckpt compact` gives it to the disk")
    assert casckpt("-C", store, "stats", "--json").json["stored"] < before
    assert max(casckpt("-C", store, "stats", "--codec", "--json").json["codec"]["by_depth"]) == "4"
    assert "nothing to re-encode (" in casckpt("-C", store, "repack", "--codec", "small", "--dry-run").out
    assert casckpt("-C", store, "fsck", "--read-data").code == 0
    with package.open(store) as repo:
        for step, state in enumerate(states(5)):
            assert_same(repo.load(f"step:{step}"), state)


def test_repack_takes_commits_and_ranges(casckpt: Casckpt, store: Path) -> None:
    def looked(*arguments: object) -> int:
        return int(casckpt("-C", store, "repack", "--codec", "none", "--json", *arguments).json["commits"])

    assert looked("step:1", "--dry-run") == 1
    assert looked("main~2..main", "step:0", "--dry-run") == 3
    assert looked("main~1..") == 1
    kinds = casckpt("-C", store, "stats", "--codec", "--json").json["codec"]
    assert kinds["by_codec"]["raw"]["chunks"] == 9
    assert kinds["by_commit"][0]["ratio"] < 1 < kinds["by_commit"][1]["ratio"]
    assert looked() == 5
    assert casckpt("-C", store, "stats", "--codec", "--json").json["codec"]["by_codec"].keys() == {"raw"}


def test_a_repack_that_is_interrupted_says_how_far_it_came_and_goes_on_from_there(
    casckpt: Casckpt, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, told = Watch.__call__, []

    def call(self: Watch, stage: str, done: int, total: int, of: str = "") -> None:
        real(self, stage, done, total, of)
        told.append((stage, done, total))
        if len([one for one in told if one[2]]) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("casckpt.history.recode.WRITE_BATCH", 1)
        patch.setattr(Watch, "__call__", call)
        ran = casckpt("-C", store, "repack", "--codec", "none")
    assert ran.code == 130 and ran.out == ""
    stage, done, total = told[-2]  # an interrupt comes before what is said of the last is known
    assert 0 < done < total == 5 * 3 * 4 * 12_288
    assert f"repack had come to: {stage} ({human_bytes(done)} of {human_bytes(total)}); what is re-en" in ran.err
    by_codec = casckpt("-C", store, "stats", "--codec", "--json").json["codec"]["by_codec"]
    assert 0 < by_codec["raw"]["chunks"] < 45
    assert casckpt("-C", store, "fsck", "--read-data").code == 0
    assert casckpt("-C", store, "repack", "--codec", "none").code == 0
    assert set(casckpt("-C", store, "stats", "--codec", "--json").json["codec"]["by_codec"]) == {"raw"}


def test_repack_of_an_empty_store_has_nothing_to_do(casckpt: Casckpt, tmp_path: Path) -> None:
    package.open(tmp_path / "s").close()
    ran = casckpt("-C", tmp_path / "s", "repack")
    assert ran.code == 0 and ran.out.startswith("looked at 0 chunks of 0 commits, in mode auto\nnothing to re-encode (")


def test_repack_says_what_cannot_be_read(casckpt: Casckpt, store: Path) -> None:
    spoil(store)
    ran = casckpt("-C", store, "repack", "--codec", "none")
    assert ran.code == 0
    assert "cannot be read: look with `casckpt fsck --read-data`\n" in ran.out


def spoil(store: Path) -> None:
    """Damage a chunk that stands by itself."""
    file = bytearray((store / "data.mdb").read_bytes())
    at = file.index(b"\xf1CKF\x01\x01\x06")
    file[at + 500] ^= 1
    (store / "data.mdb").write_bytes(file)


def test_gc_says_what_it_re_encodes_and_what_that_changes(casckpt: Casckpt, store: Path) -> None:
    assert casckpt("-C", store, "prune", "--keep-last", 1, "--keep-first", 1).code == 0
    stored = casckpt("-C", store, "stats", "--json").json["stored_by_kind"]
    would = casckpt("-C", store, "gc", "--dry-run").out.splitlines()
    assert casckpt("-C", store, "stats", "--json").json["stored_by_kind"] == stored
    report = casckpt("-C", store, "gc", "--json").json
    after = casckpt("-C", store, "stats", "--json").json["stored_by_kind"]
    assert report["freed"] == sum(stored.values()) - sum(after.values()) > 0
    assert report["freed"] == report["bytes"] + report["reencoded_before"] - report["reencoded_after"]
    assert report["reencoded_chunks"] == 9 and report["chunks"] == 27
    assert (
        would[0].startswith(f"gc would give back {human_bytes(report['freed'])}: ")
        and "27 chunks; 18 chunks live" in would[0]
    )
    assert would[1].startswith("to be re-encoded: 9 chunks, ") and len(would) == 2
    assert casckpt("-C", store, "fsck", "--read-data").code == 0


def test_gc_says_what_it_has_to_leave(casckpt: Casckpt, store: Path) -> None:
    assert casckpt("-C", store, "prune", "--keep-last", 1).code == 0
    with package.open(store) as repo, repo.store.write(durable=True, room=None) as writer:
        for bottom in {base for _, base in all_bases(writer) if base_of(writer, base) is None}:
            frame = bytearray(writer.get(Space.CHUNK, bottom) or b"")
            frame[-1] ^= 1
            writer.put(Space.CHUNK, bottom, bytes(frame))
    assert "left: 9 dead chunks, under deltas that could not be re-encoded\n" in casckpt("-C", store, "gc").out
    again = casckpt("-C", store, "gc", "--json").json
    assert (again["kept_bases"], again["chunks"], again["reencoded_chunks"]) == (9, 0, 0)
    assert casckpt("-C", store, "gc").out.startswith("gc gave back 0 B: nothing deleted; 9 chunks live (")


def test_import_takes_a_codec(casckpt: Casckpt, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for step, state in enumerate(states(4)):
        torch.save(state, tmp_path / "old" / f"step_{step}.pt")
    for mode, deepest in (("none", 0), ("small", 3)):
        assert casckpt("-C", tmp_path / mode, "import", tmp_path / "old", "--codec", mode).code == 0
        found = casckpt("-C", tmp_path / mode, "stats", "--codec", "--json").json["codec"]
        assert max(map(int, found["by_depth"])) == deepest
        assert casckpt("-C", tmp_path / mode, "config", "codec").out == "auto\n"


def test_ratios_have_three_digits() -> None:
    assert [human_ratio(ratio) for ratio in (0.9, 1.7204, 99.99, 250.3, 12345.0)] == [
        "0.90",
        "1.72",
        "99.99",
        "250",
        "12,345",
    ]
