"""Where refs were: their own names come back where nothing can be wrong about them, and only there."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path

import pytest

import casckpt
from casckpt.history.repository import History
from casckpt.store.layout import LEAF, PAGE
from casckpt.store.lmdb_store import open_store
from tests.history.pages import SIZE, File
from tests.history.world import commit, noise


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A store in which every ref moved, some of them back; and where they are."""
    path = tmp_path_factory.mktemp("made") / "store"
    with History(open_store(path, chunk_size=4096)) as history:
        for step in range(8):
            commit(history, {"model": {"w": noise(step, 300)}}, step=step)
            if step % 3 == 2:
                history.rollback("HEAD~1")
                history.tag(f"v{step}")
        history.branch("side", at="v2")
        history.expire_reflog()
        commit(history, {"model": {"w": b"newest"}})
        refs = {f"{ref.kind}/{ref.name}": ref.commit for ref in history.refs()}
    return path, refs


def leaves(path: Path) -> list[int]:
    """Leaf pages of small records, of today and of before."""
    file = File(path)
    last = (path / "data.mdb").stat().st_size // SIZE
    heads = {number: PAGE.unpack_from(file.page(number)) for number in range(2, last)}
    return [number for number, head in heads.items() if (head[0], head[2]) == (number, LEAF)]


@pytest.mark.parametrize("has_mark", [True, False], ids=["mark", "no mark"])
@pytest.mark.parametrize("heads", [(0,), (1,), (0, 1)], ids=str)
def test_a_ref_is_never_at_another_commit_than_its_last_under_its_own_name(
    made: tuple[Path, dict[str, str]], tmp_path: Path, heads: tuple[int, ...], has_mark: bool
) -> None:
    path, refs = made
    whole = (path / "data.mdb").read_bytes()
    (tmp_path / "store").mkdir()
    if has_mark:
        shutil.copy(path / "mark", tmp_path / "store")
    file = tmp_path / "store" / "data.mdb"
    known: Counter[str] = Counter()
    pages = leaves(path)
    pairs = list(itertools.combinations(pages, 2))[len(heads) :: 3]
    for lost in [(), *[(page,) for page in pages], *pairs]:
        data = bytearray(whole)
        for page in (*heads, *lost):
            data[page * SIZE : (page + 1) * SIZE] = bytes(SIZE)
        file.write_bytes(data)
        report = casckpt.salvage(file, tmp_path / "new", dry_run=True)
        for ref in report.refs:
            if not ref.name.startswith("salvaged/"):
                last = refs[f"{ref.kind}/{ref.name}"]
                assert ref.commit == report.rewritten.get(last, last), (lost, ref)
                known[ref.name] += 1
        if not lost:
            assert {ref.name for ref in report.refs} >= {"main", "side", "v2", "v5"}
    assert known["main"] > (1 if has_mark else 0)  # without it only a file that lost no page is believed


@pytest.mark.parametrize("age", [1, 2, 3])
def test_heads_that_were_rolled_back_are_told_by_the_mark(tmp_path: Path, age: int) -> None:
    """A head of before, as a disk brings it that lost the newest writes of all: the moves since are looked for."""
    path = tmp_path / "store"
    heads = []
    with History(open_store(path, chunk_size=4096)) as history:
        for step in range(8):
            commit(history, {"model": {"w": noise(step, 300)}}, step=step)
            heads.append(File(path).read(0, 2 * SIZE))
        newest = history.resolve("main").id
    File(path).write(0, heads[-1 - age])
    report = casckpt.salvage(path, tmp_path / "new")
    (main,) = [ref for ref in report.refs if ref.was == "branch/main"]
    assert (main.name, main.commit) == ("main", newest) or main.doubt
    assert newest in {ref.commit for ref in report.refs}
