"""Objects out of a transaction: looked up, checked against their ids, decoded. Frames are opened here alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from casckpt.errors import MissingObjectError
from casckpt.objects.codec import decode
from casckpt.objects.commit import CommitObject, unpack_commit
from casckpt.objects.ids import IdScheme, Kind
from casckpt.objects.node import StorageNode, unpack_node
from casckpt.objects.tree import decode_tree
from casckpt.objects.values import Value
from casckpt.store.protocol import Reader, Space

if TYPE_CHECKING:
    from casckpt.objects.chain import Chain

SPACE_OF: Final = {Kind.CHUNK: Space.CHUNK, Kind.NODE: Space.NODE, Kind.TREE: Space.TREE, Kind.COMMIT: Space.COMMIT}


class Objects:
    """The objects that one transaction shows. Lives no longer than the transaction."""

    def __init__(self, reader: Reader, scheme: IdScheme) -> None:
        self.reader = reader
        self.scheme = scheme

    def frame(self, kind: Kind, oid: bytes) -> memoryview:
        """The stored frame, unchecked; a view that ends with the transaction.

        Raises:
            MissingObjectError
        """
        frame = self.reader.get(SPACE_OF[kind], oid)
        if frame is None:
            raise MissingObjectError(
                f"{kind.name.lower()} {oid.hex()} is missing from the store",
                remedy="the store is damaged: restore it from a backup, or load another commit",
            )
        return frame

    def chain(self, oid: bytes, length: int | None = None) -> Chain:
        """The frames that a chunk is made of; views that end with the transaction.

        length: bytes that it must have, where that is known.

        Raises:
            MissingObjectError, CorruptObjectError
        """
        from casckpt.objects.chain import read_chain  # with numpy, without which commits and trees are read

        return read_chain(oid, lambda at: self.frame(Kind.CHUNK, at), length)

    def chunk(self, oid: bytes, length: int | None = None) -> memoryview:
        """A chunk's bytes, checked against its id; maybe a view that ends with the transaction. Raises as `chain`."""
        from casckpt.objects.chain import verified

        return verified(self.scheme, self.chain(oid, length))

    def raw(self, kind: Kind, oid: bytes) -> bytes:
        """The canonical bytes of a commit, tree or node, checked against its id."""
        return decode(self.scheme, kind, oid, self.frame(kind, oid))

    def commit(self, oid: bytes) -> CommitObject:
        return unpack_commit(self.raw(Kind.COMMIT, oid), self.scheme.size)

    def tree(self, oid: bytes) -> Value:
        """One tree object, its references left as they are."""
        return decode_tree(self.raw(Kind.TREE, oid), self.scheme.size)

    def node(self, oid: bytes) -> StorageNode:
        return unpack_node(self.raw(Kind.NODE, oid), self.scheme.size)
