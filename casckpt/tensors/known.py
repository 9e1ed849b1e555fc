"""What a save is compared with: the storages of the commit before, and what is remembered of live memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from casckpt.history.ingest import Base, Ingest
from casckpt.objects.node import NodeRef, StorageNode
from casckpt.objects.paths import escape, leaves
from casckpt.objects.tree import expand, shallow
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, TensorRecord

Nodes = dict[str, StorageNode]
"""The storage nodes of one commit, by the path of the first leaf that uses each."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a save is compared with: nodes whose every chunk the store holds, and what is remembered of live memory.

    probes: by the same paths as `nodes`, for each chunk, as far as this handle saw it; 0 where it was not probed.
    """

    nodes: Nodes
    probes: dict[str, list[int]] = field(default_factory=dict)

    def without_parts(self, released: tuple[str, ...]) -> Known:
        """Without what is under these top-level keys."""
        heads = tuple(escape(part) + "." for part in released)
        if not heads:
            return self
        return Known({path: node for path, node in self.nodes.items() if not f"{path}.".startswith(heads)}, self.probes)


def base_nodes(ingest: Ingest, base: Base) -> Known:
    """What the commit holds that a save is compared with, without released parts, as the store has it."""
    root = shallow(ingest.objects.tree(base.tree), ingest.objects.tree)
    if isinstance(root, Map):
        root = Map(tuple([(key, item) for key, item in root.entries if key not in base.released]))
    found: Nodes = {}
    for path, leaf in leaves(expand(root, ingest.objects.tree)):
        if isinstance(leaf, (TensorRecord, ArrayRecord, BlobRecord)) and isinstance(leaf.storage, NodeRef):
            found.setdefault(path, ingest.objects.node(leaf.storage.id))
    return Known(found)
