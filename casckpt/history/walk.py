"""The one reachability traversal: from refs and reflog over commits, trees and nodes to chunks (I2).

Live is what this walk reaches, and nothing else is kept. A commit that was pruned keeps its place in the log but not
its tree; of one whose parts were released, everything but those parts is live. The same tree may be whole in one commit
and released in part in another, so what was walked is remembered by (tree, released parts).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from casckpt.history.fetch import Objects
from casckpt.history.records import all_refs, get_mark, moves_since
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import references, shallow
from casckpt.objects.values import Map, Paged, Value
from casckpt.store.protocol import Reader, Space


@dataclass(slots=True)
class Live:
    """Ids of what is live. `trees` were walked whole; `roots` are tree objects that are live but not all below them."""

    commits: set[bytes] = field(default_factory=set)
    trees: set[bytes] = field(default_factory=set)
    roots: set[bytes] = field(default_factory=set)
    nodes: set[bytes] = field(default_factory=set)
    chunks: set[bytes] = field(default_factory=set)
    walked: set[tuple[bytes, tuple[str, ...]]] = field(default_factory=set)

    def holds(self, space: Space, key: bytes) -> bool:
        """Whether gc must keep this entry."""
        if space is Space.CHUNK:
            return key in self.chunks
        if space is Space.NODE:
            return key in self.nodes
        if space is Space.TREE:
            return key in self.trees or key in self.roots
        return key in self.commits  # COMMIT, and the MARK and FIGURES of one


def roots(reader: Reader, since: int = 0) -> set[bytes]:
    """Commits that refs point to, or that the reflog remembers from entry `since` on."""
    found = {oid for _, oid in all_refs(reader)}
    for move in moves_since(reader, since):
        found.update(oid for oid in (move.old, move.new) if oid is not None)
    return found


def reach_commits(objects: Objects, start: Iterable[bytes], live: Live) -> list[bytes]:
    """Add the commits that `start` leads to over parents; returns those that were new. Trees are left alone."""
    found: list[bytes] = []
    stack = list(start)
    while stack:
        oid = stack.pop()
        if oid in live.commits:
            continue
        live.commits.add(oid)
        found.append(oid)
        stack.extend(objects.commit(oid).parents)
    return found


def reach(objects: Objects, start: Iterable[bytes], live: Live) -> None:
    """Add everything that the commits in `start` keep alive.

    Raises:
        MissingObjectError, CorruptObjectError: the walk cannot be finished, so nothing may be deleted on its account.
    """
    for oid in reach_commits(objects, start, live):
        mark = get_mark(objects.reader, oid)
        if not mark.pruned:
            _reach_root(objects, objects.commit(oid).tree, mark.released, live)


def _reach_root(objects: Objects, root: bytes, released: tuple[str, ...], live: Live) -> None:
    if (root, released) in live.walked:
        return
    live.walked.add((root, released))
    if not released:
        _reach_trees(objects, [root], live)
        return
    top = read_top(objects, root)
    if top.entries is None:
        _reach_trees(objects, [root], live)
        return
    live.roots.update(top.ids)
    _reach_values(objects, [item for key, item in top.entries if key not in released], live)


@dataclass(frozen=True, slots=True)
class Top:
    """The top level of a state: ids of the tree objects that make it up, and its entries; None where it is no mapping,
    and so has no parts."""

    ids: tuple[bytes, ...]
    entries: tuple[tuple[Value, Value], ...] | None


def read_top(objects: Objects, root: bytes) -> Top:
    """The top level of the state under a root tree."""
    stored = objects.tree(root)
    value = shallow(stored, objects.tree)
    ids = (root, *(stored.ids if isinstance(stored, Paged) else ()))
    return Top(ids, value.entries if isinstance(value, Map) else None)


def _reach_values(objects: Objects, values: list[Value], live: Live) -> None:
    trees: list[bytes] = []
    for value in values:
        for found in references(value):
            if isinstance(found, NodeRef):
                _reach_node(objects, found, live)
            else:
                trees.append(found.id)
    _reach_trees(objects, trees, live)


def _reach_trees(objects: Objects, pending: list[bytes], live: Live) -> None:
    while pending:
        oid = pending.pop()
        if oid in live.trees:
            continue
        live.trees.add(oid)
        for found in references(objects.tree(oid)):
            if isinstance(found, NodeRef):
                _reach_node(objects, found, live)
            else:
                pending.append(found.id)


def _reach_node(objects: Objects, ref: NodeRef, live: Live) -> None:
    if ref.id not in live.nodes:
        live.nodes.add(ref.id)
        live.chunks.update(objects.node(ref.id).ids())
