"""Commits: a tree, where it came from, and what people want to know of it. Small, and never changed once written."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from casckpt.errors import CorruptObjectError, InvalidRefNameError
from casckpt.limits import MAX_COMMIT, MAX_MESSAGE, MAX_METRICS
from casckpt.objects.names import check_stored_ref_name
from casckpt.objects.tree import canonical, decode_tree
from casckpt.objects.values import Map, Value


@dataclass(frozen=True, slots=True)
class CommitObject:
    """A commit as it is stored.

    tree: id of the root. parents: ids, the first one being the commit that this one follows. step: completed optimizer
    updates, or None. time: nanoseconds since the epoch, UTC. meta: the user's own, plain values under str keys.
    """

    tree: bytes
    parents: tuple[bytes, ...]
    branch: str
    step: int | None
    metrics: tuple[tuple[str, float], ...]
    message: str
    time: int
    host: str
    meta: Map


# The fields in the order in which they stand; meta is the canonical encoding of its value.
_Fields = tuple[bytes, list[bytes], str, int | None, list[tuple[str, float]], str, int, str, bytes]
_decoder = msgspec.msgpack.Decoder(_Fields)


def pack_commit(commit: CommitObject) -> bytes:
    """The canonical bytes of a commit."""
    return msgspec.msgpack.encode(
        (
            commit.tree,
            commit.parents,
            commit.branch,
            commit.step,
            commit.metrics,
            commit.message,
            commit.time,
            commit.host,
            canonical(commit.meta),
        )
    )


def unpack_commit(raw: bytes, id_size: int) -> CommitObject:
    """The commit in `raw`, checked whole before it is used.

    Raises:
        CorruptObjectError
    """
    if len(raw) > MAX_COMMIT:
        raise CorruptObjectError(f"a commit of {len(raw)} bytes")
    try:
        tree, parents, branch, step, metrics, message, time, host, meta = _decoder.decode(raw)
        check_stored_ref_name(branch)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, InvalidRefNameError) as error:
        raise CorruptObjectError(f"a commit cannot be read: {error}") from error
    if any(len(oid) != id_size for oid in (tree, *parents)):
        raise CorruptObjectError("a commit holds an id of the wrong length")
    if len(metrics) > MAX_METRICS or len(message) > MAX_MESSAGE:
        raise CorruptObjectError("a commit holds too many metrics, or too long a message")
    user = decode_tree(meta, id_size)
    if not isinstance(user, Map) or not _is_plain(user):
        raise CorruptObjectError("a commit's metadata is no mapping of plain values")
    return CommitObject(tree, tuple(parents), branch, step, tuple(metrics), message, time, host, user)


def _is_plain(value: Value) -> bool:
    """Whether this is what a user may have given: it is shown to people and written as JSON."""
    if isinstance(value, Map):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.entries)
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, bytes))
