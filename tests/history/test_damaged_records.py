"""Records that are damaged, or made to harm, give typed errors, and cost neither time nor memory without bound."""

from __future__ import annotations

import msgspec
import pytest

from casckpt.errors import CorruptObjectError, InvalidRefNameError, RefNotFoundError, UnknownRevisionError
from casckpt.history.records import get_ref, reflog_next
from casckpt.history.repository import History
from casckpt.objects.codec import encode
from casckpt.objects.ids import Kind
from casckpt.objects.tree import LIST, TREE, expand
from casckpt.store.protocol import Space
from tests.history.damage import put
from tests.history.world import commit


def test_a_damaged_head_or_ref_is_told(history, store) -> None:
    commit(history, {"model": {}})
    with store.read() as reader:
        tip = get_ref(reader, "branch/main")
    for key in (b"branch/\xff", b"branch/a b", b"other/x", b"branch"):
        put(store, Space.REF, key, tip)
        for look in (lambda: list(history.log(None)), history.gc):
            with pytest.raises(CorruptObjectError, match="ref"):
                look()
        with store.write(durable=True, room=None) as writer:
            writer.delete(Space.REF, key)
    put(store, Space.REF, b"HEAD", b"\xff")
    with pytest.raises(CorruptObjectError, match="ref"):
        History(store)


def test_damaged_marks_moves_and_counters_are_told(history, store) -> None:
    made = commit(history, {"model": {}})
    bad_text = msgspec.msgpack.encode([True, ["x"]]).replace(b"x", b"\xff")
    put(store, Space.MARK, bytes.fromhex(made.id), bad_text)
    with pytest.raises(CorruptObjectError, match="mark"):
        history.resolve("main")
    with store.write(durable=True, room=None) as writer:
        writer.delete(Space.MARK, bytes.fromhex(made.id))
    for counter in (b"", b"\xff" * 8, b"1234567890"):
        put(store, Space.META, b"reflog_next", counter)
        with store.read() as reader, pytest.raises(CorruptObjectError, match="counter"):
            reflog_next(reader)
    put(store, Space.META, b"reflog_next", (1).to_bytes(8, "big"))
    put(store, Space.REFLOG, (0).to_bytes(8, "big"), b"\xc1")
    for look in (history.reflog, history.gc):
        with pytest.raises(CorruptObjectError, match="reflog"):
            look()


def test_a_few_trees_that_stand_for_countless_ones_are_refused(history, store, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.objects.bounded.MAX_STATE_TREES", 1000)
    inner = msgspec.msgpack.encode([LIST])
    for _ in range(7):
        oid = history.scheme.digest(Kind.TREE, inner)
        put(store, Space.TREE, oid, encode(Kind.TREE, oid, inner))
        inner = msgspec.msgpack.encode([LIST, *[[TREE, oid]] * 10])
    with pytest.raises(CorruptObjectError, match="1000 tree objects"):
        history.reading(lambda commits: expand(commits.objects.tree(oid), commits.objects.tree))


def test_a_branch_whose_name_only_a_later_python_knows_can_be_read_and_followed(history, monkeypatch) -> None:
    name = "try/" + chr(0x0378)
    with monkeypatch.context() as later:
        later.setattr("casckpt.history.repository.check_ref_name", str)
        commit(history, {"model": {}}, step=1)
        history.branch(name)
        history.switch(name)
    commit(history, {"model": {}}, step=2)
    again = type(history)(history.store)
    assert [ref.name for ref in again.refs()] == ["main", name]
    assert [(one.branch, one.step) for one in again.log()] == [(name, 2), ("main", 1)]
    assert again.resolve(name).step == 2
    assert again.fsck().ok


def test_names_and_revisions_that_are_no_text_are_typed_errors(history) -> None:
    commit(history, {"model": {}})
    for revision in ("\udcff", "main~" + "9" * 5000, "main@{" + "9" * 5000 + "}", "\udcff~1", "x" * 600):
        with pytest.raises(UnknownRevisionError):
            history.resolve(revision)
    with pytest.raises(RefNotFoundError):
        history.delete_branch("\udcff")
    with pytest.raises(InvalidRefNameError):
        history.branch("\udcff")
    name = "n" * 200
    history.branch(name)
    assert name in [ref.name for ref in history.refs()]
