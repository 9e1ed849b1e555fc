"""docs/format.md is exact: a reader written from it alone reads every golden store, and any state, as casckpt does."""

from __future__ import annotations

import ast
import functools
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st

import casckpt
from casckpt.errors import (
    CorruptObjectError,
    InvalidRefNameError,
    NewerFormatError,
    PrunedCommitError,
    UnsupportedTypeError,
)
from casckpt.objects.frame import DELTAS, Codec
from casckpt.objects.names import check_stored_ref_name
from casckpt.objects.tree import decode_tree, expand
from casckpt.store.format import FORMAT_VERSION
from casckpt.tensors.inflate import inflate
from casckpt.tensors.memory import Memory
from tests.compat.reader.errors import FormatError
from tests.compat.reader.objects import HEAD, checked_name, read_frame, unpack
from tests.compat.reader.store import Store
from tests.compat.reader.values import State
from tests.compat.revive import Reviver
from tests.compat.states import REGISTERED
from tests.equality import assert_same
from tests.objects.chunks import Frames, chunk_id, contents, next_contents
from tests.objects.test_chain import BASE, KINDS, LIES
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
@example({np.float32(0.5)}, {(np.True_, "a"): 1})
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
    own = {name for name in imported if name.startswith("tests.compat.reader")}
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


@pytest.mark.parametrize(("codec", "width", "halved"), KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_reader_reads_any_chunk_by_any_codec(codec: Codec, width: int, halved: bool, data: st.DataObject) -> None:
    base = data.draw(contents(least=width))
    raw = data.draw(next_contents(base))
    if codec is Codec.CONSTANT:
        raw = (raw[:width] * len(raw))[: len(raw)]
    scale = data.draw(st.floats(0.5, 1, width=32)) if codec is Codec.SCALED_DELTA else 1.0
    frames = Frames()
    frames.force(raw, codec, width, base if codec in DELTAS else None, halved, scale)
    assert read_frame("chunk", frames.held[chunk_id(raw)], {chunk_id(base): base}.__getitem__) == (chunk_id(raw), raw)


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


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "itself as its base"])
def test_a_frame_that_casckpt_refuses_is_refused_by_the_reader(lie: str) -> None:
    with pytest.raises(FormatError):
        read_frame("chunk", bytes(LIES[lie][1]), lambda oid: BASE)


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_the_reader_finds_records_that_do_not_fit_the_frames(version: int, tmp_path: Path) -> None:
    shutil.copytree(HERE / f"v{version}-codec-auto-xxh3_128", tmp_path / "store")
    with lmdb.open(str(tmp_path / "store"), max_dbs=64, map_size=1 << 30) as environment:
        based, chunk = environment.open_db(b"base"), environment.open_db(b"chunk")
        with environment.begin(write=True) as transaction:
            transaction.put(next(transaction.cursor(chunk).iternext(values=False)), bytes(16), db=based)
    with pytest.raises(FormatError, match="bases"):
        Store(tmp_path / "store").check()


@pytest.mark.parametrize("space", ["ref", "reflog", "mark", "figures", "meta"])
def test_the_reader_finds_a_record_that_is_not_what_was_written_there(space: str, tmp_path: Path) -> None:
    for act in ("flip", "move"):
        shutil.copytree(HERE / f"v{FORMAT_VERSION}-xxh3_128", tmp_path / act)
        with lmdb.open(str(tmp_path / act), max_dbs=64, map_size=1 << 30) as environment:
            records = environment.open_db(space.encode())
            with environment.begin(write=True) as transaction:
                (key, value), *_, (last, other) = list(transaction.cursor(records))
                if space == "meta":
                    key, last = b"gc_epoch", b"reflog_next"
                    value, other = (transaction.get(name, db=records) for name in (key, last))
                elif space == "ref":  # but HEAD
                    key, value = list(transaction.cursor(records))[1]
                if act == "flip":
                    other = bytes([value[0] ^ 1]) + value[1:]
                transaction.put(key, other, db=records)
        if act == "flip" or value != other:
            with pytest.raises(FormatError, match=f"a record of {space} "):
                Store(tmp_path / act)


_TENSOR = [5, "float32", [2], None, 0, bytes(8), None, 0]
_TOO_DEEP: Any = functools.reduce(lambda inner, _: [1, inner], range(101), 0)


@pytest.mark.parametrize(
    "item",
    [
        [99],
        [5, "float7", *_TENSOR[2:]],
        [*_TENSOR[:7], 4],
        [*_TENSOR[:4], 1, *_TENSOR[5:]],
        [*_TENSOR[:3], [2, 1], *_TENSOR[4:]],
        [*_TENSOR[:2], [-1], *_TENSOR[3:]],
        [3, "a"],
        [3, "a", 1, "a", 2],
        [3, _TENSOR, 1],
        [10, 1],
        [6, "<f4", [[3], False, False, bytes(8)]],
        [6, "<f4", [[2], False, True, bytes(8)]],
        [4, "set", [1, _TENSOR]],
        {"a": 1},
        msgpack.ExtType(9, b""),
        msgpack.ExtType(1, bytes(9)),
        msgpack.ExtType(2, b"plain"),
        _TOO_DEEP,
    ],
    ids=repr,
)
def test_what_the_page_says_must_be_refused_is_refused_by_the_reader_and_by_casckpt(item: Any) -> None:
    class Nothing:
        """A store in which nothing stands."""

    raw = msgpack.packb(item)
    with pytest.raises(FormatError):
        State(Nothing()).value(unpack(raw), 0)  # type: ignore[arg-type]  # nothing of it is asked for
    if raw in _LENIENT:
        return
    with pytest.raises((CorruptObjectError, NewerFormatError, UnsupportedTypeError)):
        value = expand(decode_tree(raw, 16), lambda oid: None)
        inflate(value, Memory.for_value(value))


# What a writer must not write, and casckpt reads all the same: it means one thing only, and harms nobody.
_LENIENT = {
    msgpack.packb(item)
    for item in (
        [10, 1],
        [3, _TENSOR, 1],
        [4, "set", [1, _TENSOR]],
        msgpack.ExtType(1, bytes(9)),
        msgpack.ExtType(2, b"plain"),
    )
}


@given(st.text(st.characters() | st.sampled_from("/.-~ HEAD"), max_size=12))
def test_the_page_and_casckpt_call_the_same_names_good(name: str) -> None:
    def is_good(check: Any) -> bool:
        try:
            return check(name) == name
        except (FormatError, InvalidRefNameError, UnicodeEncodeError):
            return False

    assert is_good(checked_name) == is_good(check_stored_ref_name)
