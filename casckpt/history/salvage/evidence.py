"""What a damaged file says of refs, moves and marks, and how far that can be believed: nothing of it has a hash, and
what is from before format 3 no check.

A ref gets its own name back only where nothing speaks against it. Whatever is in doubt is told as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from casckpt.errors import InvalidRefNameError
from casckpt.history.records import BRANCH, HEAD, TAG, Figures, Mark, Move
from casckpt.objects.names import check_stored_ref_name
from casckpt.store.checked import CHECKED_SINCE, COUNTERS, without_check
from casckpt.store.format import COUNTER_KEY, FORMAT_KEY, version_of
from casckpt.store.layout import Head
from casckpt.store.protocol import Space
from casckpt.store.scan import Scanned
from casckpt.store.trees import Trees

_NEXT: Final = COUNTERS[1]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a ref was last. commit: its id. certain: whether nothing speaks against it; else `doubt` says what."""

    ref: str
    commit: bytes
    certain: bool
    doubt: str = ""


@dataclass(slots=True)
class Evidence:
    """What was found in leaf pages of any age, and in trees that are whole.

    moves: by number; a number with two different ones has none. refs, heads: what each was seen at. next: the number of
    the next move, the greatest that was seen; settled: that it is, because the newest tree says so, or no page is lost.
    unbroken: no page of the file is lost, nor the refs of its last state. head_lost: what HEAD said last is lost.
    released, pruned: of commits with a mark, what it says. tree_refs: of the newest state whose tree of refs is whole;
    sure: that is the file's newest one. tree_next: the number of its next move, where it can be told. kept: the numbers
    of the moves that have not been expired, where that can be told.
    """

    id_size: int
    moves: dict[int, Move | None] = field(default_factory=dict)
    refs: dict[str, set[bytes]] = field(default_factory=dict)
    heads: set[str] = field(default_factory=set)
    next: int = 0
    settled: bool = False
    unbroken: bool = False
    head_lost: bool = False
    released: dict[bytes, set[str]] = field(default_factory=dict)
    pruned: set[bytes] = field(default_factory=set)
    figures: dict[bytes, Figures] = field(default_factory=dict)
    tree_refs: dict[str, bytes] | None = None
    tree_head: str | None = None
    tree_next: int | None = None
    sure: bool = False
    kept: frozenset[int] | None = None

    # -- taking it in --------------------------------------------------------------------------------------------------

    def entry(self, key: bytes, value: bytes) -> None:
        """Take in an entry of a leaf page, by its shape: which tree it is of, the page does not say."""
        if len(key) == 8 and value[:1] == b"\x95":
            self._move(key, value)
        elif len(key) == self.id_size:
            self._of_commit(key, value)
        elif key == HEAD:
            head = _name(_value(Space.REF, key, value))
            if head is not None:
                self.heads.add(head)
        elif key == _NEXT:
            self.next = max(self.next, _number(_value(Space.META, key, value)) or 0)
        else:
            ref, commit = _ref(key), _value(Space.REF, key, value)
            if ref is not None and len(commit) == self.id_size:
                self.refs.setdefault(ref, set()).add(commit)

    def trees(self, file: Scanned, mark: int | None) -> None:
        """Take in what can be had by trees: of heads, and of roots to which heads may have led.

        mark: how many changes were acknowledged, as far as that is known. A tree that counts as many is the newest.
        """
        self.unbroken = self.settled = file.unbroken
        trees = Trees(file)
        views = _views(file, trees)
        for number, view in enumerate(views):
            is_newest = number == 0 and view.is_newest(mark)
            refs = trees.entries(view.head, Space.REF) if self.tree_refs is None else None
            found = None if refs is None else _refs_of(refs, self.id_size, view.checked)
            if self.tree_refs is None and found is None:  # what older states agree on is not what this one said
                self.unbroken, self.head_lost = False, True
            if found is not None:
                self.tree_refs, self.tree_head, hit = found
                self.head_lost |= hit
                self.sure = is_newest and (view.of_head or self._agree(trees, view, views))
                # a root that no head leads to may lead to pages that were used again: its counter may be a later one
                self.tree_next = view.next if view.of_head else None
            if is_newest:
                self._newest(trees, view)
        if not self.sure and self.tree_next is not None:
            self.next = max(self.next, self.tree_next)

    def _agree(self, trees: Trees, view: _View, views: list[_View]) -> bool:
        """Whether all states that count as many changes have the same refs: of those that no head leads to, all but one
        are mixtures, of refs of before and a counter in a page that was used again."""
        for other in views:
            if other is not view and other.counter == view.counter:
                refs = trees.entries(other.head, Space.REF)
                found = None if refs is None else _refs_of(refs, self.id_size, other.checked)
                if found is None or found[0] != self.tree_refs:
                    return False
        return True

    def _newest(self, trees: Trees, view: _View) -> None:
        """Take in the trees of the file's last state. What older pages say beside them holds no more."""
        if view.next is not None:
            self.next, self.settled = view.next, True
            self.moves = {seq: move for seq, move in self.moves.items() if seq < view.next}
        moves = trees.entries(view.head, Space.REFLOG)
        if moves is not None:
            self.kept = frozenset(int.from_bytes(key, "big") for key, _ in moves)
        for space, known in ((Space.MARK, (self.released, self.pruned)), (Space.FIGURES, (self.figures,))):
            found = trees.entries(view.head, space)
            if found is not None:  # others were of commits that are gone, or of before
                for one in known:
                    one.clear()
                for key, value in found:
                    if len(key) == self.id_size:
                        self._of_commit(key, value)

    def _move(self, key: bytes, value: bytes) -> None:
        seq = int.from_bytes(key, "big")
        try:
            when, ref, old, new, action = msgspec.msgpack.decode(
                _value(Space.REFLOG, key, value), type=tuple[int, str, bytes | None, bytes | None, str]
            )
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
            return
        sizes = {len(oid) for oid in (old, new) if oid is not None}
        if sizes - {self.id_size} or _ref(ref.encode("utf-8", "replace")) != ref or seq >= 1 << 56 or when < 0:
            return
        move = Move(seq, when, ref, old, new, action)
        if self.moves.setdefault(seq, move) != move:
            self.moves[seq] = None
        self.next = max(self.next, seq + 1)

    def _of_commit(self, key: bytes, value: bytes) -> None:
        try:
            if value[:1] == b"\x92":
                value = _value(Space.MARK, key, value)
                pruned, released = msgspec.msgpack.decode(value, type=tuple[bool, tuple[str, ...]])
                self.released.setdefault(key, set()).update(released)  # marks only grow: an older one says no more
                self.pruned.update([key] if pruned else [])
            elif value[:1] == b"\x95":
                value = _value(Space.FIGURES, key, value)
                figures = Figures(*msgspec.msgpack.decode(value, type=tuple[int, int, int, int, int]))
                self.figures.setdefault(key, figures)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
            return

    # -- what it comes to ----------------------------------------------------------------------------------------------

    def positions(self) -> Iterator[Position]:
        """Where each branch and tag was last; a ref that was deleted is not among them."""
        if self.tree_refs is not None and self.sure:
            moves = {move.ref: move for move in self.known_moves()}
            for ref, commit in self.tree_refs.items():
                agrees = ref not in moves or moves[ref].new == commit
                yield Position(ref, commit, agrees, "" if agrees else "its last move led elsewhere")
            return
        known_from = self._known_from()
        base = self.tree_refs or {}
        since = (self.tree_next or 0) if self.tree_refs is not None else 0
        last: dict[str, Move] = {}
        for seq in sorted(self.moves):
            move = self.moves[seq]
            if move is not None and seq >= since:
                last[move.ref] = move
        for ref in sorted({*base, *last, *self.refs}):
            position = self._position(ref, base.get(ref), last.get(ref), since, known_from)
            if position is not None:
                yield position

    def _position(
        self, ref: str, base: bytes | None, last: Move | None, since: int, known_from: int
    ) -> Position | None:
        seen = self.refs.get(ref, set())
        found = base
        start = since if self.tree_next is not None else self.next + 1
        if last is not None:
            if last.new is None:
                return None
            found, start = last.new, last.seq + 1
        if found is None:  # one of those that it was seen at
            found, start = min(seen), self.next + 1
        gone = self.tree_refs is not None and base is None and last is None
        if (self.unbroken and seen == {found} and not gone) or known_from <= start <= self.next:
            return Position(ref, found, True)
        if gone:
            return Position(ref, found, False, "it may have been deleted")
        return Position(ref, found, False, "later moves of refs may be lost")

    def _known_from(self) -> int:
        """The number from which on all moves are there that have been; past the last one where that is not known."""
        if not self.settled:
            return self.next + 1
        first = self.next
        while first and self.moves.get(first - 1):
            first -= 1
        return first

    def histories(self) -> dict[str, list[bytes]]:
        """Of each ref the commits at which it was, the latest first, as far as moves are left; then those it was seen
        at."""
        found: dict[str, list[bytes]] = {}
        for _, move in sorted(self.moves.items(), reverse=True):
            if move is not None:
                found.setdefault(move.ref, []).extend(oid for oid in (move.new, move.old) if oid is not None)
        for ref, seen in self.refs.items():
            found.setdefault(ref, []).extend(sorted(seen))
        return found

    def known_marks(self) -> Iterator[tuple[bytes, Mark]]:
        """What was released of each commit of which there is a mark."""
        for oid, released in self.released.items():
            yield oid, Mark(oid in self.pruned, tuple(sorted(released)))

    def known_moves(self) -> list[Move]:
        """The moves that were found, the oldest first, without those of which it is known that they were expired."""
        found = [move for _, move in sorted(self.moves.items()) if move is not None]
        return [move for move in found if self.kept is None or move.seq in self.kept]

    @property
    def head(self) -> str | None:
        """The branch that HEAD names, if that is known."""
        if self.head_lost:
            return None
        if self.tree_head is not None:
            return self.tree_head
        return next(iter(self.heads)) if len(self.heads) == 1 else None


@dataclass(frozen=True, slots=True)
class _View:
    """A state of the file to which a head leads, or a root did. counter: of changes; next: the number of the next move;
    None where they cannot be read. of_head: whether a head leads to it; is_last: the newer head of two. checked:
    whether each of its records has a check."""

    head: Head
    counter: int | None
    next: int | None
    of_head: bool
    is_last: bool
    checked: bool

    def is_newest(self, mark: int | None) -> bool:
        """Whether nothing that was acknowledged came after it."""
        if mark is None or self.counter is None:
            return self.is_last
        return self.counter >= mark


def _views(file: Scanned, trees: Trees) -> list[_View]:
    """The states that can be looked at, the newest first as far as that is known."""
    views: list[_View] = []
    for head in (*file.heads, *file.roots):
        meta = trees.entries(head, Space.META)
        found = None if meta is None else dict(meta)
        counter = None if found is None else _number(found.get(COUNTER_KEY))
        # absent it may stand under a damaged key; a state that has had no move has no refs either
        following = None if not found or _NEXT not in found else _number(_value(Space.META, _NEXT, found[_NEXT]))
        version = version_of(found.get(FORMAT_KEY, b"")) if found else None
        of_head = any(head is one for one in file.heads)
        is_last = len(file.heads) == 2 and head is file.heads[0]
        checked = version is not None and version >= CHECKED_SINCE
        views.append(_View(head, counter, following, of_head, is_last, checked))
    return sorted(views, key=lambda view: (not view.is_last, -(view.counter or 0)))


def _refs_of(
    found: Iterable[tuple[bytes, bytes]], id_size: int, checked: bool
) -> tuple[dict[str, bytes], str | None, bool] | None:
    """What a tree of refs holds: where each is, the branch that HEAD names, and whether that was hit."""
    refs: dict[str, bytes] = {}
    head: str | None = None
    hit = False
    for key, record in found:
        ref, value = _ref(key), _value(Space.REF, key, record)
        if key == HEAD:
            head = None if checked and without_check(Space.REF, key, record) is None else _name(value)
            hit = head is None
        elif ref is None or len(value) != id_size:
            return None
        else:
            refs[ref] = value
    return refs, head, hit


def _number(raw: bytes | None) -> int | None:
    return int.from_bytes(raw, "big") if raw is not None and len(raw) == 8 and not raw[0] else None


def _value(space: Space, key: bytes, record: bytes) -> bytes:
    """What a record says. A page may be of before its store was upgraded, so one that has no check, or a wrong one,
    is taken for its own value, of which the check would make nonsense."""
    value = without_check(space, key, record)
    return record if value is None else bytes(value)


def _ref(key: bytes) -> str | None:
    """The ref that a key names, "branch/NAME" or "tag/NAME"; None where it names none."""
    kind, _, name = key.partition(b"/")
    checked = _name(name)
    if checked is None or kind + b"/" not in (BRANCH.encode(), TAG.encode()):
        return None
    return f"{kind.decode()}/{checked}"


def _name(raw: bytes) -> str | None:
    try:
        return check_stored_ref_name(raw.decode())
    except (UnicodeDecodeError, InvalidRefNameError):
        return None
