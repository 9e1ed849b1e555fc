"""How much a store holds: what its commits would take as plain files, and what they take here."""

from __future__ import annotations

from dataclasses import dataclass

from casckpt.history.fetch import Objects
from casckpt.history.records import BRANCH, TAG, all_refs, get_figures, get_mark
from casckpt.history.walk import Live, reach_commits, roots
from casckpt.objects.ids import IdScheme
from casckpt.store.protocol import HeldBack, Space, Store, StoreSize


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of what is there (also of what gc would collect), and bytes.

    commits: in the log; pruned: of these, without state. logical: bytes of the states of all commits that are kept, as
    full files would take them (a part that was released since is counted as it was). stored: bytes of the frames of all
    objects; stored_by_kind: of "chunks", "nodes", "trees" and "commits". size: of the file. held: what of its
    free pages cannot be used again yet, and why.
    """

    commits: int
    pruned: int
    branches: int
    tags: int
    chunks: int
    nodes: int
    trees: int
    logical: int
    stored: int
    stored_by_kind: dict[str, int]
    size: StoreSize
    held: HeldBack | None = None

    @property
    def saved(self) -> float:
        """Logical bytes per stored byte."""
        return self.logical / self.stored if self.stored else 1.0


def stats(store: Store, scheme: IdScheme) -> Stats:
    """Count a store."""
    held = store.held_back()
    with store.read() as reader:
        live = Live()
        reach_commits(Objects(reader, scheme), roots(reader), live)
        pruned = logical = 0
        for oid in live.commits:
            figures = get_figures(reader, oid)
            if get_mark(reader, oid).pruned:
                pruned += 1
            elif figures is not None:
                logical += figures.logical
        by_kind = {
            f"{space.name.lower()}s": sum(len(value) for _, value in reader.items(space))
            for space in (Space.CHUNK, Space.NODE, Space.TREE, Space.COMMIT)
        }
        refs = [name for name, _ in all_refs(reader)]
        return Stats(
            commits=len(live.commits),
            pruned=pruned,
            branches=sum(name.startswith(BRANCH) for name in refs),
            tags=sum(name.startswith(TAG) for name in refs),
            chunks=reader.count(Space.CHUNK),
            nodes=reader.count(Space.NODE),
            trees=reader.count(Space.TREE),
            logical=logical,
            stored=sum(by_kind.values()),
            stored_by_kind=by_kind,
            size=store.size(),
            held=held,
        )
