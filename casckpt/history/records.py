"""The small records beside the objects: refs, the reflog, what was released of a commit, what a commit wrote.

Each is read and written here and nowhere else. All of them change only inside the store's one write transaction.
From format 3 on each carries a check (`store/checked.py`), so that no flipped bit is taken for what was written.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from casckpt.errors import CorruptObjectError, InvalidRefNameError, PrunedCommitError, RefMovedError
from casckpt.objects.names import check_stored_ref_name
from casckpt.objects.paths import readable
from casckpt.store.checked import CHECKED_SINCE, COUNTERS, with_check, without_check
from casckpt.store.protocol import MAX_KEY, Reader, Space, Writer

BRANCH: Final = "branch/"
TAG: Final = "tag/"
HEAD: Final = b"HEAD"
_EPOCH, _NEXT = COUNTERS

_SALVAGE: Final = "restore the store from a backup, or make a new one of what it still holds: `casckpt salvage`"
_SORTS: Final = {
    Space.META: "the counter",
    Space.REF: "the ref",
    Space.REFLOG: "the reflog entry",
    Space.MARK: "the retention mark of commit",
    Space.FIGURES: "the figures of commit",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Move:
    """One line of the reflog: a ref went from `old` to `new` (ids; None: was not, or is no more)."""

    seq: int
    time: int
    ref: str
    old: bytes | None
    new: bytes | None
    action: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What retention released of a commit: all of it, or these parts (top-level keys of its state)."""

    pruned: bool
    released: tuple[str, ...]


WHOLE: Final = Mark(False, ())


@dataclass(frozen=True, slots=True)
class Figures:
    """What a commit holds and what it added. Bytes: `logical` of the state, `new` of the chunks it was the first to
    write, `stored` of their frames. Chunks: `chunks` in all, `new_chunks` written."""

    logical: int
    new: int
    stored: int
    chunks: int
    new_chunks: int


def _get(reader: Reader, space: Space, key: bytes) -> memoryview | None:
    raw = reader.get(space, key)
    return None if raw is None else _value(reader, space, key, raw)


def _put(writer: Writer, space: Space, key: bytes, value: bytes) -> None:
    writer.put(space, key, with_check(space, key, value) if writer.format_version >= CHECKED_SINCE else value)


def _value(reader: Reader, space: Space, key: bytes, raw: memoryview) -> memoryview:
    """The value of a record.

    Raises:
        CorruptObjectError: it is not what was written under this key.
    """
    value = without_check(space, key, raw) if reader.format_version >= CHECKED_SINCE else raw
    if value is None:
        raise CorruptObjectError(f"{_SORTS[space]} {_shown(space, key)} cannot be read: it is not what was written")
    return value


def _shown(space: Space, key: bytes) -> str:
    if space is Space.REFLOG:
        return str(int.from_bytes(key, "big"))
    return readable(key.decode(errors="replace")) if space in (Space.META, Space.REF) else key.hex()


def _decode(raw: memoryview, shape: type[T], what: str) -> T:
    try:
        return msgspec.msgpack.decode(raw, type=shape)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise CorruptObjectError(f"{what} cannot be read: {error}") from error


def _checked_name(raw: bytes) -> str:
    """A stored name of a branch or tag, checked again."""
    try:
        return check_stored_ref_name(raw.decode())
    except (UnicodeDecodeError, InvalidRefNameError) as error:
        raise CorruptObjectError(f"the name of a ref cannot be read: {error}") from error


def _key(ref: str) -> bytes:
    # a name with lone surrogates is none that was ever given; so written, it is found nowhere
    return ref.encode("utf-8", "surrogatepass")


# -- counters ----------------------------------------------------------------------------------------------------------


def _counter(reader: Reader, key: bytes) -> int:
    raw = _get(reader, Space.META, key)
    if raw is None:
        _check_not_elsewhere(reader, Space.META, key)
        return 0
    if len(raw) != 8 or raw[0]:  # nobody has counted to 2^56
        raise CorruptObjectError(f"the counter {key.decode()} cannot be read")
    return int.from_bytes(raw, "big")


def _check_not_elsewhere(reader: Reader, space: Space, wanted: bytes) -> None:
    """What is absent never was, unless its record stands under another key: then a bit of that was hit, and who took it
    for absent would begin anew, or count from 0."""
    if reader.format_version >= CHECKED_SINCE:
        for key, raw in reader.items(space):
            if without_check(space, wanted, raw) is not None:
                name = readable(wanted.decode("utf-8", "surrogatepass"))
                raise CorruptObjectError(f"{_SORTS[space]} {name} stands under {readable(key)}", remedy=_SALVAGE)


def gc_epoch(reader: Reader) -> int:
    """A number that moves whenever objects are deleted."""
    return _counter(reader, _EPOCH)


def move_gc_epoch(writer: Writer) -> None:
    _put(writer, Space.META, _EPOCH, (gc_epoch(writer) + 1).to_bytes(8, "big"))


def reflog_next(reader: Reader) -> int:
    """The number that the next move of a ref gets; it only grows, whatever is expired.

    Raises:
        CorruptObjectError: it cannot be read, or moves with it and later ones are there: those would be written over.
    """
    following = _counter(reader, _NEXT)
    last = next(reader.keys(Space.REFLOG, reverse=True), None)
    if last is not None and int.from_bytes(last, "big") >= following and _is_its_own(reader, Space.REFLOG, last):
        raise CorruptObjectError(
            f"the next move would be entry {following} of the reflog, which goes on to {int.from_bytes(last, 'big')}",
            remedy=_SALVAGE,
        )
    return following


def _is_its_own(reader: Reader, space: Space, key: bytes) -> bool:
    """Whether a record stands under the key under which it was written, as far as its format tells."""
    raw = reader.get(space, key)
    return raw is not None and (reader.format_version < CHECKED_SINCE or without_check(space, key, raw) is not None)


# -- refs and their moves ----------------------------------------------------------------------------------------------


def get_ref(reader: Reader, ref: str, *, sure: bool = True) -> bytes | None:
    """The commit id that "branch/NAME" or "tag/NAME" points to.

    sure: where it is absent, look at all refs whether it only seems so.

    Raises:
        CorruptObjectError: it cannot be read, or stands under another key.
    """
    key = _key(ref)
    if len(key) > MAX_KEY:
        return None
    raw = _get(reader, Space.REF, key)
    if raw is None and sure:
        _check_not_elsewhere(reader, Space.REF, key)
    return None if raw is None else bytes(raw)


def all_refs(reader: Reader) -> Iterator[tuple[str, bytes]]:
    """Branches, then tags, with the ids they point to, each in the order of their names."""
    for key, raw in reader.items(Space.REF):
        if key != HEAD:
            yield read_ref(reader, key, raw)


def read_ref(reader: Reader, key: bytes, raw: memoryview) -> tuple[str, bytes]:
    """A ref out of its record.

    Raises:
        CorruptObjectError: it is none.
    """
    kind, slash, name = key.partition(b"/")
    if kind + slash not in (BRANCH.encode(), TAG.encode()):
        raise CorruptObjectError(f"a ref {key!r} is neither a branch nor a tag")
    return f"{kind.decode()}/{_checked_name(name)}", bytes(_value(reader, Space.REF, key, raw))


def get_head(reader: Reader) -> str:
    """The branch that a new handle is bound to. Raises as `get_ref` does."""
    raw = _get(reader, Space.REF, HEAD)
    if raw is None:
        _check_not_elsewhere(reader, Space.REF, HEAD)
        return "main"
    return _checked_name(bytes(raw))


def set_head(writer: Writer, branch: str) -> None:
    _put(writer, Space.REF, HEAD, branch.encode())


def move_ref(
    writer: Writer, ref: str, *, expected: bytes | None, new: bytes | None, action: str, revive: bool = True
) -> None:
    """Move a ref by compare-and-swap, and say so in the reflog, in the caller's transaction (I3).

    expected: what the ref must point to now; None: must not exist. new: None deletes it.
    revive: whether `new` is an older commit, which must not have been pruned (I2): gc may be stripping it.

    Raises:
        RefMovedError: the ref is not where it was expected.
        PrunedCommitError
    """
    now = get_ref(writer, ref)
    if now != expected:
        where = "does not exist any more" if now is None else f"is at {now.hex()[:12]}"
        was = "not to exist" if expected is None else f"at {expected.hex()[:12]}"
        raise RefMovedError(
            f"{ref} was expected {was}, but it {where}: another process or handle moved it",
            ref=ref.partition("/")[2],
            remedy="nothing of either side is lost; look with `casckpt reflog`, then go on from where it is now with "
            "repo.switch(branch), or on a branch of your own",
        )
    if new is None:
        writer.delete(Space.REF, _key(ref))
    else:
        if revive:
            check_not_pruned(writer, new)
        _put(writer, Space.REF, _key(ref), new)
    put_move(writer, Move(reflog_next(writer), time.time_ns(), ref, now, new, action))


def put_ref(writer: Writer, ref: str, new: bytes | None, action: str) -> None:
    """Give a store that is being made a ref, or with None a move that says that it is none of its refs."""
    if new is not None:
        _put(writer, Space.REF, _key(ref), new)
    put_move(writer, Move(reflog_next(writer), time.time_ns(), ref, None, new, action))


def put_move(writer: Writer, move: Move) -> None:
    """Write a line of the reflog; those to come get greater numbers."""
    fields = (move.time, move.ref, move.old, move.new, move.action)
    following = max(reflog_next(writer), move.seq + 1)
    _put(writer, Space.REFLOG, move.seq.to_bytes(8, "big"), msgspec.msgpack.encode(fields))
    _put(writer, Space.META, _NEXT, following.to_bytes(8, "big"))


def check_not_pruned(reader: Reader, commit: bytes) -> None:
    """Raise PrunedCommitError where the commit was pruned, or is gone altogether."""
    if get_mark(reader, commit).pruned or not reader.has(Space.COMMIT, commit):
        raise PrunedCommitError(
            f"commit {commit.hex()[:12]} was pruned: its state is no longer kept",
            remedy="choose a commit that `casckpt log` does not show as pruned",
        )


@lru_cache(maxsize=256)  # a reflog has many moves of few refs
def _check_ref(ref: str) -> None:
    kind, slash, name = ref.partition("/")
    try:
        if kind + slash not in (BRANCH, TAG):
            raise CorruptObjectError(f"a reflog entry of {ref!r}, which is neither a branch nor a tag")
        check_stored_ref_name(name)
    except InvalidRefNameError as error:
        raise CorruptObjectError(f"a reflog entry cannot be read: {error}") from error


def _move(key: bytes, raw: memoryview) -> Move:
    when, ref, old, new, action = _decode(raw, tuple[int, str, bytes | None, bytes | None, str], "a reflog entry")
    _check_ref(ref)
    return Move(int.from_bytes(key, "big"), when, ref, old, new, action)


def moves_since(reader: Reader, seq: int) -> Iterator[Move]:
    """The reflog from entry `seq` on, oldest first."""
    for key, raw in reader.items(Space.REFLOG, seq.to_bytes(8, "big")):
        yield _move(key, _value(reader, Space.REFLOG, key, raw))


def moves_back(reader: Reader) -> Iterator[Move]:
    """The reflog, newest first."""
    for key, raw in reader.items(Space.REFLOG, reverse=True):
        yield _move(key, _value(reader, Space.REFLOG, key, raw))


def older(moves: Iterable[Move], limit: float, now: float) -> Iterator[Move]:
    """Of the reflog, oldest first, what is from before `limit`; both times in seconds.

    The order of moves is known, the clock may have been set. So what follows a younger one counts as younger, whatever
    its date. One that is dated later than now says nothing of those after it, and stays.
    """
    for move in moves:
        if limit <= move.time / 1e9 <= now:
            return
        if move.time / 1e9 < limit:
            yield move


def expire_moves(writer: Writer, seqs: list[int]) -> None:
    for seq in seqs:
        writer.delete(Space.REFLOG, seq.to_bytes(8, "big"))


# -- what was released, and figures ------------------------------------------------------------------------------------


def get_mark(reader: Reader, commit: bytes) -> Mark:
    raw = _get(reader, Space.MARK, commit)
    return WHOLE if raw is None else Mark(*_decode(raw, tuple[bool, tuple[str, ...]], "a retention mark"))


def add_mark(writer: Writer, commit: bytes, mark: Mark) -> None:
    """Release what `mark` says beside what was released before. A mark only grows: what it frees may be gone."""
    before = get_mark(writer, commit)
    released = sorted({*before.released, *mark.released})
    _put(writer, Space.MARK, commit, msgspec.msgpack.encode((before.pruned or mark.pruned, released)))


def get_figures(reader: Reader, commit: bytes) -> Figures | None:
    raw = _get(reader, Space.FIGURES, commit)
    return None if raw is None else Figures(*_decode(raw, tuple[int, int, int, int, int], "a commit's figures"))


def put_figures(writer: Writer, commit: bytes, figures: Figures) -> None:
    fields = (figures.logical, figures.new, figures.stored, figures.chunks, figures.new_chunks)
    _put(writer, Space.FIGURES, commit, msgspec.msgpack.encode(fields))
