"""The smallest store that a state can go through: trees and whole spans in dicts, nothing cut, nothing encoded."""

from __future__ import annotations

from dataclasses import dataclass, field

from casckpt.limits import INLINE_STORAGE
from casckpt.objects.ids import XXH3_128, Kind
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import decode_tree, expand, write_tree
from casckpt.objects.values import Value
from casckpt.tensors.flatten import flatten
from casckpt.tensors.inflate import inflate
from casckpt.tensors.memory import Memory


@dataclass
class DictStore:
    trees: dict[bytes, bytes] = field(default_factory=dict)
    spans: dict[bytes, bytes] = field(default_factory=dict)

    def save(self, state: object) -> bytes:
        """Flatten a state and keep it; gives the id of its root."""
        flat = flatten(state)
        return write_tree(flat.value, [self._span(bytes(span.host())) for span in flat.spans], self._tree)

    def _span(self, held: bytes) -> bytes | NodeRef:
        if len(held) <= INLINE_STORAGE:
            return held
        oid = XXH3_128.digest(Kind.NODE, held)
        self.spans[oid] = held
        return NodeRef(oid, len(held))

    def _tree(self, raw: bytes) -> bytes:
        oid = XXH3_128.digest(Kind.TREE, raw)
        self.trees[oid] = raw
        return oid

    def fetch(self, oid: bytes) -> Value:
        return decode_tree(self.trees[oid], XXH3_128.size)

    def value(self, root: bytes) -> Value:
        return expand(self.fetch(root), self.fetch)

    def load(self, root: bytes) -> object:
        return self.inflate(self.value(root))

    def inflate(self, value: Value) -> object:
        memory = Memory.for_value(value)
        for target in memory.targets:
            target.out[:] = self.spans[target.ref.id]
        return inflate(value, memory)


def round_trip(state: object) -> object:
    """The state as it comes back."""
    store = DictStore()
    return store.load(store.save(state))
