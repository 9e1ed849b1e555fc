"""docs/format.md is exact: a reader written from it alone reads every golden store, and any state, as casckpt does."""

from __future__ import annotations

import ast
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings

import casckpt
from casckpt.errors import PrunedCommitError
from tests.compat.reader.objects import HEAD, FormatError, read_frame
from tests.compat.reader.store import Store
from tests.compat.revive import Reviver
from tests.compat.states import REGISTERED
from tests.equality import assert_same
from tests.processes import run
from tests.strategies import states

HERE = Path(__file__).parent
STORES = sorted(path.name for path in HERE.glob("v*-*"))


def revived(value: Any) -> Any:
    return Reviver(REGISTERED).item(value)


def assert_read_the_same(path: Path) -> None:
    """Everything that the reader finds in a store, against what casckpt says; the store is left closed."""
    store = Store(path)
    assert store.check()["whole commits"] >= 0
    with casckpt.open(path, create=False) as repo:
        assert repo.store.format.hash == store.format["hash"]
        assert {f"{ref.kind}/{ref.name}": bytes.fromhex(ref.commit) for ref in repo.refs()} == store.refs
        assert repo.current_branch == store.head
        moves = [
            (f"{move.kind}/{move.name}", *(one and bytes.fromhex(one) for one in (move.old, move.new)), move.action)
            for move in repo.reflog()
        ]
        assert moves == [(move.ref, move.old, move.new, move.action) for move in reversed(store.reflog)]
        for oid, read in store.reached():
            commit = repo.resolve(oid.hex())
            assert commit.tree == read.tree.hex() and list(commit.parents) == [one.hex() for one in read.parents]
            assert (commit.branch, commit.step, commit.message) == (read.branch, read.step, read.message)
            assert_same(commit.metrics, dict(read.metrics))
            assert (commit.host, commit.meta) == (read.host, revived(read.meta))
            assert abs(commit.time.timestamp() * 1e9 - read.time) < 1e3
            pruned, released = store.marks.get(oid, (False, []))
            assert (commit.pruned, list(commit.released)) == (pruned, released)
            if oid in store.figures:
                counted = commit.figures
                assert [counted.logical, counted.new, counted.stored, counted.chunks, counted.new_chunks] == (
                    store.figures[oid]
                )
            if pruned:
                with pytest.raises(PrunedCommitError):
                    repo.load(oid.hex())
                continue
            state = revived(store.state(oid))
            if released:
                kept = [part.name for part in repo.parts(oid.hex()) if not part.released]
                assert_same(repo.load(oid.hex(), paths=kept), state)
            else:
                assert_same(repo.load(oid.hex()), state)


@pytest.mark.parametrize("name", STORES)
def test_the_reader_reads_every_golden_store_as_casckpt_does(name: str, tmp_path: Path) -> None:
    shutil.copytree(HERE / name, tmp_path / "store")
    assert_read_the_same(tmp_path / "store")


@settings(max_examples=40, deadline=None)
@given(states(), states())
def test_the_reader_reads_any_state_as_casckpt_does(first: Any, second: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        with casckpt.open(path, hash="blake3", chunk_size=256) as repo:
            repo.commit({"part": first, "other": second}, "one")
            repo.commit(second, "two", step=-1, metrics={"": float("nan")}, meta={"a": [(b"", None)]})
        assert_read_the_same(path)


def test_the_reader_uses_nothing_of_casckpt_and_no_torch() -> None:
    imported: set[str] = set()
    for source in (HERE / "reader").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
    own = {name for name in imported if name.startswith("tests.compat.reader.")}
    others = {name.partition(".")[0] for name in imported - own} - set(sys.stdlib_module_names)
    assert others == {"blake3", "lmdb", "msgpack", "xxhash", "zstandard"}
    alone = run("""
        import sys
        from tests.compat.reader.store import Store
        from pathlib import Path
        print(Store(Path(sys.argv[1])).check())
        assert not {"casckpt", "torch", "numpy", "msgspec"} & set(sys.modules)
    """, HERE / "v1-blake3")  # fmt: skip
    assert "'commit': 4" in alone


# -- that it does refuse -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(0, 200, 7))
def test_the_reader_finds_any_byte_that_changed_in_a_frame(place: int) -> None:
    oid, raw = bytes(range(16)), bytes(range(160))
    head = HEAD.pack(b"\xf1CKF", 1, 1, 0, 16, 0, 0, 0, 0, 160, 160, 0) + oid
    check = xxhash.xxh32(head, seed=0).intdigest().to_bytes(4, "little")
    frame = bytearray(head[:20] + check + head[24:] + raw)
    assert read_frame("chunk", bytes(frame)) == (oid, raw)
    frame[place] ^= 1
    try:
        held = read_frame("chunk", bytes(frame))
    except FormatError:
        return
    assert held != (oid, raw) and place >= 40, "only the payload is left to the id"
