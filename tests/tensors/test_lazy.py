"""A handle on one tensor reads the chunks that hold what is asked for, each once, each checked, and no other."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import casckpt
from casckpt.errors import (
    CorruptObjectError,
    MissingObjectError,
    PrunedCommitError,
    ReleasedPartError,
    StoreClosedError,
    UnknownPathError,
    UnknownRevisionError,
    UnsupportedTypeError,
)
from casckpt.history.fetch import Objects
from casckpt.history.listing import list_leaves
from casckpt.objects.ids import Kind
from casckpt.objects.values import ITEM_SIZE
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from casckpt.tensors.lazy import TensorHandle
from casckpt.tensors.repository import Repository
from tests.equality import assert_same, bits
from tests.history.damage import flip, put
from tests.strategies import DTYPES, tensors

CHUNK = 256
MEETS_ALL = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@contextlib.contextmanager
def chunks_read() -> Iterator[list[bytes]]:
    """The ids of the chunks that are looked up meanwhile."""
    seen: list[bytes] = []
    frame = Objects.frame

    def counted(objects: Objects, kind: Kind, oid: bytes) -> memoryview:
        if kind is Kind.CHUNK:
            seen.append(oid)
        return frame(objects, kind, oid)

    with patch.object(Objects, "frame", counted):
        yield seen


def ids_of(handle: TensorHandle) -> list[bytes]:
    stored = handle._stored
    return [] if isinstance(stored, bytes) else stored.ids()


def model(state: object) -> Repository:
    repo = Repository(MemoryStore(chunk_size=CHUNK))
    repo.commit(state)
    return repo


# -- what it gives, and what it reads for that -------------------------------------------------------------------------


@st.composite
def strided(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of some chunks over any strides: with gaps, overlapping, interleaved, expanded, transposed."""
    name = draw(st.sampled_from(list(DTYPES)))
    shape = draw(st.lists(st.integers(1, 9), max_size=4))
    strides = [draw(st.sampled_from([0, 1, 2, 3, 7, 9, 20, 81, 100])) for _ in shape]
    if draw(st.booleans()):  # as a contiguous one that was transposed
        order = draw(st.permutations(range(len(shape))))
        strides = list(torch.empty(shape).permute(order).contiguous().permute(np.argsort(order).tolist()).stride())
    offset = draw(st.integers(0, 5))
    reach = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    raw = np.random.default_rng(draw(st.integers(0, 3))).integers(
        0, 2 if name == "bool" else 256, reach * ITEM_SIZE[name], np.uint8
    )
    return torch.from_numpy(raw).view(DTYPES[name]).as_strided(shape, strides, offset)


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """A basic index that fits."""
    items: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        bound = st.none() | st.integers(-size - 2, size + 2)
        items.append(draw(st.builds(slice, bound, bound, st.none() | st.integers(1, 4)) | _ints(size)))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(items)))
        left = len(shape) - len(items)
        behind = [draw(_ints(size) | st.just(slice(None, None, 2))) for size in shape[at + left :][: len(items) - at]]
        items = [*items[:at], ..., *behind]
    for _ in range(draw(st.integers(0, 2))):
        items.insert(draw(st.integers(0, len(items))), None)
    return items[0] if len(items) == 1 and draw(st.booleans()) else tuple(items)


def _ints(size: int) -> st.SearchStrategy[Any]:
    return st.integers(-size, size - 1) if size else st.just(slice(None))


def holding(places: Any, item: int) -> set[int]:
    """The numbers of the chunks that hold elements at these places of a span."""
    return {
        byte // CHUNK for place in set(np.ravel(places).tolist()) for byte in (place * item, place * item + item - 1)
    }


@MEETS_ALL
@given(st.data())
def test_an_index_gives_what_the_loaded_tensor_gives_and_reads_just_the_chunks_that_hold_it(data) -> None:
    saved = data.draw(strided() | tensors())
    repo = model({"a.b": {"t": saved}})
    loaded = repo.load()["a.b"]["t"].detach()
    handle = repo.open_tensor("HEAD", r"a\.b.t")
    assert (handle.shape, handle.dtype, handle.ndim, handle.nbytes) == (
        *(loaded.shape, loaded.dtype, loaded.ndim),
        loaded.numel() * loaded.element_size(),
    )
    reach = sum((size - 1) * stride for size, stride in zip(loaded.shape, loaded.stride(), strict=True)) + 1
    places = torch.arange(max(reach, 0)).as_strided(loaded.shape, loaded.stride()) if loaded.numel() else None
    for _ in range(4):
        index = data.draw(indices(tuple(loaded.shape)))
        with chunks_read() as seen:
            found = handle[index]
        assert (found.dtype, found.shape, found.requires_grad) == (loaded.dtype, loaded[index].shape, False)
        assert np.array_equal(bits(found), bits(loaded[index]))
        wanted = holding(places[index], saved.element_size()) if places is not None else set()
        ids = ids_of(handle)
        assert seen == ([ids[number] for number in sorted(wanted)] if ids else [])
        assert found.untyped_storage().nbytes() <= found.numel() * found.element_size()


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """An array of some chunks, in either order, its elements of any size."""
    records = np.dtype([("a", "i4"), ("b", "S9"), ("c", "f8", 2)])
    dtype = np.dtype(draw(st.sampled_from(["i1", ">f4", "c16", "S7", "U3", "M8[ns]", np.longdouble, records])))
    numbers = np.arange(math.prod(shape := tuple(draw(st.lists(st.integers(0, 9), max_size=3)))))
    if dtype is records:
        made = np.zeros(len(numbers), dtype)
        made["a"], made["b"], made["c"][:, 1] = numbers, numbers.astype("S9"), numbers
    else:
        made = numbers.astype("i8").astype(dtype)
    return draw(st.sampled_from([np.ascontiguousarray, np.asfortranarray]))(made.reshape(shape))


@MEETS_ALL
@given(st.data())
def test_an_index_into_an_array_gives_what_the_loaded_array_gives(data) -> None:
    saved = data.draw(arrays())
    shape = saved.shape
    repo = model([saved])
    loaded = repo.load()[0]
    handle = repo.open_tensor("HEAD", "0")
    assert (handle.shape, handle.dtype, handle.ndim, handle.nbytes) == (shape, saved.dtype, saved.ndim, saved.nbytes)
    places = np.arange(saved.size).reshape(shape, order="F" if saved.flags.fnc else "C")
    for _ in range(4):
        index = data.draw(indices(shape))
        with chunks_read() as seen:
            found = handle[index]
        expected = loaded[index]
        assert type(found) is type(expected) and found.dtype == expected.dtype and found.shape == expected.shape
        assert found.tobytes() == expected.tobytes()
        ids = ids_of(handle)
        assert seen == ([ids[number] for number in sorted(holding(places[index], saved.itemsize))] if ids else [])


def test_tensors_of_one_storage_and_those_that_stand_in_their_records_are_read_alike(repo) -> None:
    base = torch.arange(10_000.0)
    state = {
        "whole": base,
        "view": base[5000:].view(50, 100),
        "tied": base,
        "small": torch.arange(12.0).view(3, 4).t(),
        "parameter": torch.nn.Parameter(torch.ones(2000)),
        "scalar": np.float32(2.5),
        "zero": torch.tensor(7),
        "conj": torch.randn(600, dtype=torch.complex64).conj(),
    }
    repo.commit(state)
    for path, saved in state.items():
        assert_same(
            repo.open_tensor("HEAD", path).load(),
            saved.detach().resolve_conj() if path in ("parameter", "conj") else saved,
        )
    assert_same(repo.open_tensor("HEAD", "view")[7, 3:5], base[5703:5705].clone())
    assert_same(repo.open_tensor("HEAD", "small")[1:], state["small"][1:].clone(memory_format=torch.preserve_format))
    assert_same(repo.open_tensor("HEAD", "zero")[()], torch.tensor(7))


def test_what_is_stored_in_another_order_comes_in_that_order_and_expanded_elements_come_once(repo) -> None:
    state = {
        "t": torch.randn(40, 50).t(),
        "e": torch.randn(500).expand(1000, 500),
        "w": torch.arange(3000).unfold(0, 100, 1),
    }
    repo.commit(state)
    for path, saved in state.items():
        found = repo.open_tensor("HEAD", path)[...]
        assert torch.equal(found, saved)
        assert found.stride() == saved.stride()
        assert found.untyped_storage().nbytes() == saved.untyped_storage().nbytes()


@pytest.mark.parametrize("codec", ["none", "small"])
def test_large_slices_are_read_by_several_threads(tmp_path, monkeypatch, codec) -> None:
    monkeypatch.setattr("casckpt.tensors.lazy.thread_count", lambda: 3)
    monkeypatch.setattr("casckpt.tensors.lazy._ALONE", 0)
    met: set[int] = set()
    together = threading.Barrier(3)
    verified = casckpt.tensors.load.verified

    def seen(*args: Any) -> memoryview:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            if len(met) <= 3:  # each of the first three threads waits for the two others
                together.wait(60)
        return verified(*args)

    monkeypatch.setattr("casckpt.tensors.lazy.verified", seen)
    saved = torch.arange(300_000).view(300, 1000)
    with casckpt.open(tmp_path / "store", chunk_size=4096, codec=codec) as repo:
        repo.commit({"w": saved})
        handle = repo.open_tensor("HEAD", "w")
        assert torch.equal(handle[:, 1:900:3], saved[:, 1:900:3])
        assert torch.equal(handle[3:290], saved[3:290])
    assert len(met) >= 3


# -- what cannot be had ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "error", "said"),
    [
        (torch.tensor([1]), TypeError, "load"),
        (torch.tensor(True), TypeError, "load"),
        (np.array([1, 2]), TypeError, "load"),
        ([0, 1], TypeError, "load"),
        (True, TypeError, "load"),
        (1.5, TypeError, "load"),
        ("a", TypeError, "load"),
        (slice(None, None, -1), ValueError, "flip"),
        (slice(None, None, 0), ValueError, "zero"),
        (slice("a"), TypeError, "integers"),
        (7, IndexError, "out of range for dimension 0 of 7"),
        ((0, -4), IndexError, "out of range for dimension 1 of 3"),
        ((0, 0, 0), IndexError, "3 indices for a tensor of 2"),
        ((..., 0, ...), IndexError, "ellipsis"),
    ],
)
def test_an_index_that_does_not_fit_is_refused_before_anything_is_read(index, error, said) -> None:
    handle = model({"w": torch.zeros(7, 3)}).open_tensor("HEAD", "w")
    with patch.object(handle._repository, "reading", None), pytest.raises(error, match=said):
        handle[index]


def test_ints_of_any_kind_are_ints() -> None:
    handle = model(torch.arange(7)).open_tensor("HEAD", "")
    assert [int(handle[index]) for index in (np.int64(3), torch.tensor(3), np.array(3))] == [3, 3, 3]


def test_a_handle_is_a_sequence_of_rows_and_says_what_it_is() -> None:
    saved = torch.arange(700.0).view(7, 100)
    repo = model({"a.b": {"w": saved}, "n": np.arange(3), "zero": torch.tensor(1)})
    handle = repo.open_tensor("HEAD", "a.b.w")
    assert len(handle) == 7 and all(torch.equal(row, one) for row, one in zip(handle, saved, strict=True))
    assert np.array_equal(np.asarray(handle), saved.numpy())
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(handle, copy=False)
    commit = repo.resolve().id
    assert repr(handle) == rf"<TensorHandle a\.b.w: float32 [7, 100] of commit {commit[:8]}>"
    assert (handle.path, handle.commit) == (r"a\.b.w", commit)
    assert repr(repo.open_tensor("HEAD", "n")) == f"<TensorHandle n: int64 [3] of commit {commit[:8]}>"
    for refused in (len, iter):
        with pytest.raises(TypeError, match="0-d"):
            refused(repo.open_tensor("HEAD", "zero"))


def test_iteration_reads_each_chunk_about_once(monkeypatch) -> None:
    monkeypatch.setattr("casckpt.tensors.lazy._AHEAD", 2 * CHUNK)
    for saved in (torch.arange(6000).view(3000, 2), torch.arange(6000).view(3, 2000), torch.arange(900).expand(4, 900)):
        handle = model({"w": saved}).open_tensor("HEAD", "w")
        with chunks_read() as seen:
            assert torch.equal(torch.stack(list(handle)), saved)
        assert len(seen) <= 1.6 * len(ids_of(handle)) or saved.stride(0) == 0
    assert list(model({"w": torch.zeros(0, 3)}).open_tensor("HEAD", "w")) == []
    assert [int(one) for one in model({"w": np.arange(5)}).open_tensor("HEAD", "w")] == [0, 1, 2, 3, 4]


# -- paths -------------------------------------------------------------------------------------------------------------

NESTED = {
    "model": {
        "enc.weight": torch.ones(100),
        "enc": {"bias": torch.zeros(90)},
        "list": [torch.ones(3), {"x": torch.ones(5)}],
    },
    "optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}, "lr": 0.1},
    "sparse": torch.eye(3).to_sparse(),
    "text": "x" * 9000,
    "": torch.ones(1),
}


def test_every_tensor_that_ls_shows_opens_by_its_path_with_and_without_escapes() -> None:
    repo = model(NESTED)
    for leaf in repo.ls():
        for path in {leaf.path, leaf.path.replace("\\", "")}:
            if leaf.kind in ("tensor", "array"):
                assert repo.open_tensor("HEAD", path).path == leaf.path
                assert repo.open_tensor("HEAD", path).shape == leaf.shape
            else:
                with pytest.raises(UnknownPathError):
                    repo.open_tensor("HEAD", path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("enc.weight", r"there is no tensor enc.weight; there is model.enc\.weight"),
        ("x", "there is model.list.1.x"),
        ("model.enc.wieght", r"there is model.enc\.weight"),
        ("model.list", "model.list is no tensor but a container of 2 leaves; there is model.list.0, model.list.1.x"),
        ("optimizer.lr", "optimizer.lr is no tensor but 0.1; see"),
        ("text", "text is no tensor but str of 9000 bytes"),
        ("sparse", "sparse.4, sparse.5"),
        ("nothing at all", "see what there is with `casckpt ls`"),
        ("model.*", "there is no tensor"),
    ],
)
def test_a_path_that_leads_to_no_tensor_is_told_with_those_that_are_near(path, said) -> None:
    with pytest.raises(UnknownPathError) as caught:
        model(NESTED).open_tensor("HEAD", path)
    assert said in str(caught.value)
    assert caught.value.path == path and caught.value.remedy


def test_a_path_that_several_leaves_have_is_refused() -> None:
    repo = model(
        {
            0: torch.ones(3),
            "0": torch.ones(4),
            1: torch.ones(5),
            "1": [],
            "a.b": torch.ones(1),
            "a": {"b": torch.ones(2)},
        }
    )
    with pytest.raises(UnknownPathError, match="path of 2 tensors, by keys of different types"):
        repo.open_tensor("HEAD", "0")
    assert repo.open_tensor("HEAD", "1").shape == (5,)  # the other one is no tensor
    assert repo.open_tensor("HEAD", "a.b").shape == (2,)  # as it stands, before any without its escapes
    assert repo.open_tensor("HEAD", r"a\.b").shape == (1,)
    repo.commit({"a.b": {"c": torch.ones(1)}, "a": {"b.c": torch.ones(2)}})
    with pytest.raises(UnknownPathError, match="could be any of"):
        repo.open_tensor("HEAD", "a.b.c")


def test_opening_fetches_only_the_trees_that_lead_there() -> None:
    state = {f"layer{n}": {f"w{m}": torch.full((100,), n * 80 + m) for m in range(80)} for n in range(20)}
    repo = model(state)
    with patch.object(Objects, "tree", autospec=True, side_effect=Objects.tree) as fetched, chunks_read() as seen:
        repo.open_tensor("HEAD", "layer7.w3")
        assert fetched.call_count <= 3 and not seen
        fetched.reset_mock()
        repo.reading(lambda commits: list(list_leaves(commits.objects, commits.stored(repo._tip).tree, (), None)))
        assert fetched.call_count > 20


# -- damage, and what was given up -------------------------------------------------------------------------------------


def test_damage_outside_of_what_is_asked_for_is_not_met_and_damage_in_it_is_refused(repo) -> None:
    saved = torch.arange(3000)  # in chunks of 128 elements
    repo.commit({"w": saved})
    handle = repo.open_tensor("HEAD", "w")
    flip(repo.store, Space.CHUNK, ids_of(handle)[5])
    put(repo.store, Space.CHUNK, ids_of(handle)[9], None)
    for low, high in ((0, 640), (768, 1152), (1280, 3000)):
        assert torch.equal(handle[low:high], saved[low:high])
    for index in (slice(767, 768), slice(600, 800), slice(640, 768), 640):
        with pytest.raises(CorruptObjectError, match=ids_of(handle)[5].hex()):
            handle[index]
    for index in (slice(1279, 1300), 1152):
        with pytest.raises(MissingObjectError, match=ids_of(handle)[9].hex()):
            handle[index]
    with pytest.raises(CorruptObjectError):
        handle.load()


def test_a_chunk_of_another_length_is_refused(repo) -> None:
    from casckpt.objects.node import StorageNode

    repo.commit({"w": torch.arange(3000)})
    handle = repo.open_tensor("HEAD", "w")
    ids = ids_of(handle)
    handle._stored = StorageNode(24_000, 1024, b"".join([ids[-1], *ids[1:]]))
    for index in (0, slice(0, 128), slice(0, 2000)):
        with pytest.raises(CorruptObjectError, match="448 bytes where 1024 are expected"):
            handle[index]


def test_an_array_of_another_size_than_its_bytes_is_refused(repo) -> None:
    from casckpt.objects.node import NodeRef
    from casckpt.objects.values import ArrayRecord, TensorRecord
    from casckpt.tensors.flatten import flatten

    repo.commit({"w": torch.arange(3000)})
    (node,) = _keys(repo, Space.NODE)
    described = flatten(np.arange(3)).value.dtype
    records = {
        "an array of 24008 bytes that are 24000": ArrayRecord(described, (3001,), False, False, NodeRef(node, 24_000)),
        "spans 24000 bytes where 25000 are expected": TensorRecord(
            "int64", (1,), None, 0, NodeRef(node, 25_000), None, 0
        ),
        "a record of a state that was never saved": TensorRecord("int64", (1,), None, 0, 0, None, 0),
        "at w: ": ArrayRecord(["no dtype"], (3,), False, False, bytes(24)),
    }
    for said, record in records.items():
        with pytest.raises(CorruptObjectError, match=said):
            repo.reading(lambda commits, record=record: TensorHandle(repo, b"", "w", record, commits.objects))


def _keys(repo: Repository, space: Space) -> list[bytes]:
    with repo.store.read() as reader:
        return list(reader.keys(space))


def test_a_dtype_that_is_not_here_is_named(repo, monkeypatch) -> None:
    repo.commit({"w": torch.ones(3, dtype=torch.float8_e5m2)})
    monkeypatch.delitem(casckpt.tensors.torch_leaves.DTYPES, "float8_e5m2")
    with pytest.raises(UnsupportedTypeError, match="float8_e5m2") as caught:
        repo.open_tensor("HEAD", "w")
    assert caught.value.path == "w"


def test_what_was_given_up_is_told_when_it_is_opened_and_when_it_is_read(repo) -> None:
    for n in range(3):
        repo.commit({"model": {"w": torch.full((500,), n)}, "optimizer": {"m": torch.full((900,), n)}, "lr": 0.1 * n})
    old, part = repo.open_tensor("HEAD~2", "model.w"), repo.open_tensor("HEAD~1", "optimizer.m")
    kept = repo.open_tensor("HEAD~1", "model.w")
    repo.prune(casckpt.Keep(last=2, parts={"optimizer": casckpt.Keep(last=1)}))
    assert torch.equal(old[5:], torch.full((495,), 0))  # it is all there, until gc comes
    with pytest.raises(PrunedCommitError):
        repo.open_tensor("HEAD~2", "model.w")
    for path in ("optimizer.m", "optimizer", "optimizer.no.such"):
        with pytest.raises(ReleasedPartError) as caught:
            repo.open_tensor("HEAD~1", path)
        assert caught.value.parts == ("optimizer",) and caught.value.remedy
    with pytest.raises(UnknownPathError):
        repo.open_tensor("HEAD~1", "optimizers.m")
    repo.gc()
    with pytest.raises(PrunedCommitError, match=old.commit[:12]):
        old[5:]
    with pytest.raises(ReleasedPartError):
        part[5:]
    assert torch.equal(kept[:], torch.full((500,), 1))


def test_a_commit_that_is_gone_altogether_is_told_as_one(repo) -> None:
    repo.commit({"w": torch.zeros(500)})
    repo.branch("try")
    Repository(repo.store, "try").commit({"w": torch.ones(500)})
    handle = repo.open_tensor("try", "w")
    repo.delete_branch("try")
    repo.expire_reflog()
    repo.gc()
    with pytest.raises(PrunedCommitError, match=handle.commit[:12]):
        handle[0]


def test_an_unknown_revision_is_told(repo) -> None:
    with pytest.raises(UnknownRevisionError):
        repo.open_tensor("nope", "w")


# -- what it holds -----------------------------------------------------------------------------------------------------


def test_nothing_is_held_open_between_two_reads_and_each_is_one_transaction(tmp_path) -> None:
    with casckpt.open(tmp_path / "store", chunk_size=1024) as repo:
        repo.commit({"w": torch.arange(30_000)})
        environment = repo.store._environment
        began: list[object] = []
        begin = environment.begin_read
        with patch.object(environment, "begin_read", lambda one: began.append(one) or begin(one)):
            handle = repo.open_tensor("HEAD", "w")
            assert len(began) == 1 and not environment.gate.live
            handle[5:20_000:3]
            assert len(began) == 2 and not environment.gate.live
    with pytest.raises(StoreClosedError):
        handle[5]
