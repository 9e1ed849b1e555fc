"""Single tensors of a commit, read as far as they are looked at: only the chunks that hold what an index takes.

Nothing is held open between two reads; each of them is one read transaction, and gives exact bytes or raises (I5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch

from casckpt.errors import (
    CorruptObjectError,
    MissingObjectError,
    ReleasedPartError,
    UnknownPathError,
    UnsupportedTypeError,
)
from casckpt.history.commits import CommitReader
from casckpt.history.fetch import Objects
from casckpt.history.listing import describe, whole_leaves
from casckpt.history.records import check_not_pruned, get_mark
from casckpt.limits import MIB
from casckpt.objects.chain import Chain, verified
from casckpt.objects.ids import IdScheme
from casckpt.objects.node import StorageNode, chunk_count
from casckpt.objects.paths import child, find, unescape
from casckpt.objects.tree import expand, shallow
from casckpt.objects.values import ITEM_SIZE, ArrayRecord, Map, TensorRecord, Value, contiguous_strides
from casckpt.tensors import huge_pages
from casckpt.tensors.indexing import Box, Layout, View, boxes, choose, lay_out
from casckpt.tensors.leaf import LeafError
from casckpt.tensors.load import Region, fill, node_of
from casckpt.tensors.memory import no_memory, view_of
from casckpt.tensors.numpy_leaves import Array, dtype_of
from casckpt.tensors.torch_leaves import DTYPES
from casckpt.tensors.workers import each, thread_count

if TYPE_CHECKING:
    from casckpt.history.repository import History

# Below so many bytes of chunks, threads take longer to start than they save.
_ALONE: Final = 4 * MIB

# Bytes that iteration reads at a time: row by row, every chunk would be read once for each row in it.
_AHEAD: Final = MIB
# Paths that an error names.
_NEAR: Final = 3

_Record: TypeAlias = TensorRecord | ArrayRecord
_RECORDS: Final = (TensorRecord, ArrayRecord)


class TensorHandle:
    """One tensor or numpy array of a commit, of which only what is asked for is read.

    `handle[index]` takes ints, slices with positive steps, `...`, None and tuples of these, as torch does, and reads
    the chunks in which something of that is, each once, each checked. What it gives is in memory of its own on the CPU,
    in the order in which it is stored, and requires no gradient; of a numpy array it is one. `len` and iteration are
    over the first dimension, as of a tensor; iteration reads a MiB at a time. Threads may share a handle; the store
    must stay open.

    path: as `Repository.ls` has it. commit: the id, hex. shape: elements along each dimension. dtype: torch's, or of a
    numpy array numpy's.
    """

    def __init__(self, repository: History, commit: bytes, path: str, record: _Record, objects: Objects) -> None:
        self._repository = repository
        self._oid = commit
        self.commit = commit.hex()
        self.path = path
        self.shape = torch.Size(record.shape) if isinstance(record, TensorRecord) else record.shape
        self.dtype = _dtype(record, path)
        self._view = _view(record, self.dtype)
        self._is_scalar = isinstance(record, ArrayRecord) and record.scalar
        self._stored = _stored(record, objects, path)
        length = len(self._stored) if isinstance(self._stored, bytes) else self._stored.length
        if isinstance(record, ArrayRecord) and self.nbytes != length:
            raise CorruptObjectError(f"at {path}: an array of {self.nbytes} bytes that are {length}")

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that it shows: elements times bytes of one."""
        total = self._view.item
        for size in self.shape:
            total *= size
        return total

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"<{type(self).__name__} {self.path}: {dtype} {list(self.shape)} of commit {self.commit[:8]}>"

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> Array:
        # without this, numpy would take it for a sequence and read it element by element
        if copy is False:
            raise ValueError("a tensor that is not in memory cannot be an array without a copy")
        return np.asarray(self.load(), dtype)

    def load(self) -> Any:
        """All of it. Raises as `handle[index]` does."""
        return self[...]

    def __iter__(self) -> Iterator[Any]:
        step = max(1, _AHEAD * len(self) // max(1, self.nbytes))
        return (row for at in range(0, len(self), step) for row in self[at : at + step])

    def __getitem__(self, index: object) -> Any:
        """What an index takes of it.

        Raises:
            IndexError, TypeError, ValueError: an index that does not fit, or that asks for more than ranges.
            PrunedCommitError, ReleasedPartError: it was given up since it was opened, and collected.
            CorruptObjectError, MissingObjectError
            StoreClosedError
        """
        view = choose(self._view, index)
        layout = lay_out(view)
        flat = _memory(layout.nbytes, self.path)
        if layout.nbytes:
            out = view_of(flat.untyped_storage())
            huge_pages.prefer([out])
            self._fill(layout, np.frombuffer(out, np.uint8))
        if isinstance(self.dtype, torch.dtype):
            # an empty tensor of the dtype comes from a view, since torch warns where one of complex32 is made
            return flat[:0].view(self.dtype).set_(flat.untyped_storage(), 0, view.shape, layout.strides)
        strides = [stride * view.item for stride in layout.strides]
        array: Array = np.ndarray(view.shape, self.dtype, flat.numpy().data, strides=strides)
        wants_array = any(item is Ellipsis for item in (index if isinstance(index, tuple) else (index,)))
        return array[()] if self._is_scalar or not wants_array else array  # as of numpy, [()] leaves dimensions alone

    def _fill(self, layout: Layout, out: Array) -> None:
        stored = self._stored
        if isinstance(stored, bytes):
            for box in boxes(layout, 0, len(stored)):
                _copy(memoryview(stored), 0, box, layout.item, out)
            return

        def work(commits: CommitReader) -> None:
            objects = commits.objects
            try:
                if not layout.steps:
                    fill(objects, [Region(stored, out.data, layout.start)])
                    return
                pieces = list(_pieces(objects, stored, layout))
            except MissingObjectError:
                self._check_kept(commits)
                raise
            total = sum(piece.high - piece.low for piece in pieces)
            each(
                lambda piece: _take(objects.scheme, piece, layout.item, out),
                pieces,
                threads=thread_count() if total > _ALONE else 1,
            )

        self._repository.reading(work)

    def _check_kept(self, commits: CommitReader) -> None:
        """Whether retention has not given the tensor up since it was opened."""
        reader = commits.objects.reader
        check_not_pruned(reader, self._oid)
        _check_not_released(get_mark(reader, self._oid).released, self.path)


def open_tensor(repository: History, commits: CommitReader, commit: bytes, path: str) -> TensorHandle:
    """The tensor or array at a path of a commit's state; no chunk is read.

    Raises:
        UnknownPathError: there is none, or several are written so.
        PrunedCommitError, ReleasedPartError
        UnsupportedTypeError: it is of a dtype that this torch, numpy or machine has not.
        CorruptObjectError, MissingObjectError
    """
    objects = commits.objects
    check_not_pruned(objects.reader, commit)
    root = shallow(objects.tree(commits.stored(commit).tree), objects.tree)
    released = get_mark(objects.reader, commit).released
    if released and isinstance(root, Map):
        root = Map(tuple([(key, item) for key, item in root.entries if key not in released]))
    found = find(root, path, objects.tree)
    tensors = [(full, item) for full, item in found if isinstance(item, (TensorRecord, ArrayRecord))]
    if len(tensors) == 1:
        return TensorHandle(repository, commit, *tensors[0], objects)
    if tensors:
        raise _ambiguous(path, [full for full, _ in tensors])
    if not found:
        _check_not_released(released, path)
    raise _unknown(objects, root, path, found)


def _check_not_released(released: tuple[str, ...], path: str) -> None:
    for part in released:
        for name in (child("", part), part):
            if path == name or path.startswith(f"{name}."):
                raise ReleasedPartError(
                    f"retention released {part} of this commit",
                    parts=(part,),
                    remedy="open it in a commit that has it: `casckpt show` says what was released of one",
                )


def _ambiguous(path: str, paths: list[str]) -> UnknownPathError:
    if len(set(paths)) > 1:
        problem, remedy = f"{path} could be any of {', '.join(paths)}", "write the dots in keys as \\."
    else:
        problem, remedy = f"{path} is the path of {len(paths)} tensors, by keys of different types", "load() them"
    return UnknownPathError(problem, path=path, remedy=remedy)


def _unknown(objects: Objects, root: Value, path: str, found: list[tuple[str, Value]]) -> UnknownPathError:
    shown = path or "the root of the state"
    under = expand(found[0][1] if found else root, objects.tree)
    leaves = list(whole_leaves(under, found[0][0] if found else ""))
    tensors = [full for full, leaf in leaves if isinstance(leaf, _RECORDS)]
    if found:
        kind = f"a container of {len(leaves)} leaves" if [full for full, _ in leaves] != [path] else describe(under)
        near, problem = tensors[:_NEAR], f"{shown} is no tensor but {kind}"
    else:
        ending = [full for full in tensors if unescape(full).endswith(f".{unescape(path)}")]
        near, problem = ending[:_NEAR] or get_close_matches(path, tensors, _NEAR), f"there is no tensor {shown}"
    said = f"there is {', '.join(near)}" if near else "see what there is with `casckpt ls`"
    return UnknownPathError(problem, path=path, remedy=said)


def _dtype(record: _Record, path: str) -> torch.dtype | np.dtype[Any]:
    if isinstance(record, TensorRecord):
        found = DTYPES.get(record.dtype)
        if found is None:
            raise UnsupportedTypeError(
                f"a tensor of dtype {record.dtype}, which torch {torch.__version__} has not",
                path=path,
                remedy="read it with the torch that saved it, or a later one",
            )
        return found
    try:
        return dtype_of(record.dtype)
    except LeafError as error:
        raise UnsupportedTypeError(error.problem, path=path, remedy=error.remedy) from error
    except (TypeError, ValueError) as error:
        raise CorruptObjectError(f"at {path}: {error}") from error


def _view(record: _Record, dtype: torch.dtype | np.dtype[Any]) -> View:
    if isinstance(record, TensorRecord):
        return View(record.shape, record.strides, record.offset, ITEM_SIZE[record.dtype])
    strides = contiguous_strides(record.shape)
    if record.fortran:
        strides = contiguous_strides(record.shape[::-1])[::-1]
    return View(record.shape, strides, 0, dtype.itemsize)


def _stored(record: _Record, objects: Objects, path: str) -> bytes | StorageNode:
    """Where the bytes are: at hand, or in these chunks."""
    storage = record.storage
    if isinstance(storage, bytes):
        return storage
    if isinstance(storage, int):
        raise CorruptObjectError(f"at {path}: a record of a state that was never saved")
    return node_of(objects, storage)


def _memory(length: int, path: str) -> torch.Tensor:
    try:
        return torch.empty(length, dtype=torch.uint8, device="cpu")
    except (RuntimeError, MemoryError) as error:
        raise no_memory(length, path) from error


@dataclass(frozen=True, slots=True)
class _Piece:
    """One chunk, and what of it is wanted. low, high: where it lies in the span, in bytes."""

    low: int
    high: int
    chain: Chain
    boxes: tuple[Box, ...]


def _pieces(objects: Objects, node: StorageNode, layout: Layout) -> Iterator[_Piece]:
    size = node.chunk_size
    width = objects.scheme.size
    for number in range(layout.start // size, chunk_count(layout.end, size)):
        low, high = number * size, min((number + 1) * size, node.length)
        wanted = tuple(boxes(layout, low, high))
        if wanted:
            oid = node.chunks[number * width : (number + 1) * width]
            yield _Piece(low, high, objects.chain(oid, high - low), wanted)


def _take(scheme: IdScheme, piece: _Piece, item: int, out: Array) -> None:
    raw = verified(scheme, piece.chain)
    for box in piece.boxes:
        _copy(raw, piece.low, box, item, out)


def _copy(raw: memoryview, low: int, box: Box, item: int, out: Array) -> None:
    """What a box takes of bytes that are stored from `low` on. numpy checks that it stays within both."""
    if box.length % item:
        item = 1  # cut by the chunk's end
    shape = [*(count for count, _, _ in box.steps), box.length // item]
    of = np.dtype((np.void, item))
    stored = np.ndarray(shape, of, raw, box.source - low, [*(step for _, step, _ in box.steps), item])
    held = np.ndarray(shape, of, out.data, box.to, [*(to for _, _, to in box.steps), item])
    np.copyto(held, stored)
