"""Commits: what is packed is read again, and what is read is checked whole."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError, NewerFormatError
from casckpt.limits import MAX_COMMIT_META, MAX_MESSAGE, MAX_METRICS, MIB
from casckpt.objects.commit import CommitObject, pack_commit, unpack_commit
from casckpt.objects.tree import canonical
from casckpt.objects.values import Map, Typed

SAMPLE = CommitObject(
    tree=bytes(16),
    parents=(b"p" * 16,),
    branch="main",
    step=3,
    metrics=(("loss", 0.5),),
    message="warm-up done",
    time=1_700_000_000_000_000_000,
    host="box",
    meta=Map((("git", "a1b2"),)),
)


@st.composite
def commits(draw: st.DrawFn) -> CommitObject:
    oid = st.binary(min_size=16, max_size=16)
    plain = st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
    return CommitObject(
        tree=draw(oid),
        parents=tuple(draw(st.lists(oid, max_size=3))),
        branch=draw(st.sampled_from(["main", "try/lr-3e-4", "é"])),
        step=draw(st.none() | st.integers(0, 2**63)),
        metrics=tuple(draw(st.lists(st.tuples(st.text(max_size=5), st.floats(allow_nan=False)), max_size=3))),
        message=draw(st.text(max_size=20)),
        time=draw(st.integers(0, 2**63)),
        host=draw(st.text(max_size=5)),
        meta=Map(tuple(draw(st.dictionaries(st.text(max_size=4), plain | st.lists(plain), max_size=3)).items())),
    )


@given(commits())
def test_a_commit_is_read_as_it_was_packed(commit: CommitObject) -> None:
    assert unpack_commit(pack_commit(commit), 16) == commit


def test_a_metric_that_is_nan_comes_back_with_its_bits() -> None:
    nan = struct.unpack("<d", bytes.fromhex("efbeaddeadbef47f"))[0]
    read = unpack_commit(pack_commit(dataclasses.replace(SAMPLE, metrics=(("loss", nan), ("zero", -0.0)))), 16)
    assert [struct.pack("<d", value) for _, value in read.metrics] == [struct.pack("<d", nan), struct.pack("<d", -0.0)]


@given(st.data())
def test_a_changed_commit_is_another_commit_or_damage(data: st.DataObject) -> None:
    raw = bytearray(pack_commit(SAMPLE))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(CorruptObjectError, NewerFormatError):
        assert unpack_commit(bytes(raw), 16) != SAMPLE


@pytest.mark.parametrize(
    "changed",
    [
        {"tree": bytes(15)},
        {"parents": (bytes(32),)},
        {"branch": "no branch"},
        {"branch": ""},
        {"metrics": tuple((str(i), 0.0) for i in range(MAX_METRICS + 1))},
        {"meta": [1]},
        {"meta": Typed("set", [1])},
        {"message": "x" * (MAX_COMMIT_META + MAX_MESSAGE + MIB)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_commit_with_an_impossible_field_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(CorruptObjectError):
        unpack_commit(pack_commit(dataclasses.replace(SAMPLE, **changed)), 16)


def test_a_commit_with_broken_text_is_damage() -> None:
    raw = pack_commit(SAMPLE)
    with pytest.raises(CorruptObjectError):
        unpack_commit(raw.replace(b"warm-up", b"warm\xff\xff\xff"), 16)


@pytest.mark.parametrize("at", range(9))
def test_a_commit_with_a_field_of_another_type_is_refused(at: int) -> None:
    fields = [bytes(16), [], "main", 1, [], "", 0, "", canonical(Map(()))]
    assert unpack_commit(msgspec.msgpack.encode(fields), 16)
    with pytest.raises(CorruptObjectError):
        unpack_commit(msgspec.msgpack.encode([*fields[:at], True, *fields[at + 1 :]]), 16)
    with pytest.raises(CorruptObjectError):
        unpack_commit(msgspec.msgpack.encode(fields[:at]), 16)
