"""Commit writes what changed and nothing else; load gives it back equal, or raises."""

from __future__ import annotations

import dataclasses
import math
import threading
from pathlib import Path

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
    RefMovedError,
    ReleasedPartError,
    StateError,
    UnknownRevisionError,
    UnsupportedTypeError,
)
from casckpt.history.ingest import Ingest
from casckpt.limits import MIB
from casckpt.objects.ids import Kind
from casckpt.store.memory import MemoryStore
from casckpt.store.protocol import Space
from casckpt.tensors.repository import Repository
from tests.equality import assert_same
from tests.strategies import states


def file_bytes(repo: Repository) -> int:
    return (Path(repo.path) / "data.mdb").stat().st_size


def objects(repo: Repository) -> dict[Space, set[bytes]]:
    with repo.store.read() as reader:
        return {space: set(reader.keys(space)) for space in (Space.CHUNK, Space.NODE, Space.TREE, Space.COMMIT)}


def test_an_unchanged_gigabyte_costs_next_to_nothing(tmp_path) -> None:
    state = {"model": {f"layer.{n}": torch.rand(2 * MIB) for n in range(128)}}
    with casckpt.open(tmp_path / "store") as repo:
        repo.commit(state)
        size, before = file_bytes(repo), objects(repo)
        second = repo.commit(state)
        assert second.figures.logical == 1 << 30
        assert second.figures.new_chunks == second.figures.new == 0
        assert file_bytes(repo) - size < 128 << 10
        after = objects(repo)
        assert all(after[space] == before[space] for space in (Space.CHUNK, Space.NODE, Space.TREE))


def test_one_changed_element_writes_one_chunk_and_the_path_to_it(tmp_path) -> None:
    state = {"model": {f"layer.{n}": torch.rand(2 * MIB) for n in range(40)}, "optimizer": {"lr": 0.1}}
    with casckpt.open(tmp_path / "store") as repo:
        repo.commit(state)
        before = objects(repo)
        state["model"]["layer.7"][12345] += 1
        second = repo.commit(state)
        new = {space: len(ids - before[space]) for space, ids in objects(repo).items()}
        assert new == {Space.CHUNK: 1, Space.NODE: 1, Space.TREE: 2, Space.COMMIT: 1}
        assert second.figures.new == MIB
        assert_same(state, repo.load())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(states(), min_size=1, max_size=4))
def test_every_commit_of_any_history_loads_equal(history) -> None:
    repo = Repository(MemoryStore(chunk_size=256))
    ids = [repo.commit({"state": state}).id for state in history]
    for oid, state in zip(ids, history, strict=True):
        assert_same({"state": state}, repo.load(oid))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_edits_of_a_state_load_equal_and_store_only_what_they_change(data) -> None:
    repo = Repository(MemoryStore(chunk_size=256))
    state = {str(n): torch.arange(n * 1000, n * 1000 + 300, dtype=torch.float32) for n in range(4)}
    repo.commit(state)
    for _ in range(data.draw(st.integers(1, 5))):
        edits = data.draw(st.sets(st.tuples(st.sampled_from(sorted(state)), st.integers(0, 299)), max_size=3))
        for name, index in edits:
            state[name][index] = data.draw(st.floats(width=32))
        touched = {(name, index * 4 // 256) for name, index in edits}
        made = repo.commit({name: tensor.clone() for name, tensor in state.items()})
        assert made.figures.new_chunks <= len(touched)
        assert_same(state, repo.load())


@pytest.mark.parametrize("hash", ["xxh3_128", "blake3"])
@pytest.mark.parametrize("codec", ["none", "fast", "auto", "small"])
def test_every_hash_and_codec_round_trips_across_reopening(tmp_path, hash, codec) -> None:
    state = {"dense": torch.randn(5000), "zeros": torch.zeros(70_000), "ids": torch.arange(50_000), "text": "x" * 9000}
    with casckpt.open(tmp_path / "store", hash=hash, codec=codec, chunk_size=65536) as repo:
        made = repo.commit(state)
    with casckpt.open(tmp_path / "store") as repo:
        assert len(made.id) == (64 if hash == "blake3" else 32)
        assert_same(state, repo.load())
        if codec != "none":
            assert made.figures.stored < made.figures.new / 2


def test_chunks_larger_than_the_staging_buffer_and_many_flushes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.tensors.writer.SAVE_BATCH", 5000)
    monkeypatch.setattr("casckpt.history.ingest.SAVE_BATCH", 5000)
    monkeypatch.setattr("casckpt.tensors.staging.SLAB", 3000)
    monkeypatch.setattr("casckpt.tensors.committing.SAVE_MEMORY", 10_000)
    state = {str(n): torch.randn(3000) for n in range(5)}
    for chunk_size in (1024, 8192):
        with casckpt.open(tmp_path / str(chunk_size), chunk_size=chunk_size) as repo:
            repo.commit(state)
            state["3"][100] = 0
            repo.commit(state)
            assert_same(state, repo.load())


def test_equal_tensors_are_stored_once(repo) -> None:
    made = repo.commit({"a": torch.ones(4096), "b": torch.ones(4096), "c": np.ones(4096, np.float32)})
    assert made.figures.new_chunks == 1
    assert made.figures.chunks == 16  # of one node, which all three share


def test_paths_choose_and_keep_the_nesting(repo) -> None:
    state = {
        "model": {"enc.weight": torch.ones(500), "dec.weight": torch.zeros(500)},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}, {"lr": 0.2}]},
        "step": 3,
    }
    repo.commit(state)
    assert_same({"model": state["model"]}, repo.load(paths=["model.*"]))
    assert_same({"model": state["model"]}, repo.load(paths="model"))
    assert_same({"model": {"enc.weight": torch.ones(500)}, "step": 3}, repo.load(paths=["model.enc.weight", "step"]))
    assert_same({"model": {"enc.weight": torch.ones(500)}}, repo.load(paths=[r"model.enc\.weight"]))
    assert_same({"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, repo.load(paths=["*exp_avg"]))
    assert_same({"optimizer": {"param_groups": [{"lr": 0.1}, {"lr": 0.2}]}}, repo.load(paths=["*.lr"]))
    assert repo.load(paths=["nothing"]) == {}


def test_what_was_released_is_refused_by_name_and_the_rest_loads(repo) -> None:
    for n in range(3):
        repo.commit({"model": {"w": torch.full((500,), n)}, "optimizer": {"m": torch.full((900,), n)}}, f"c{n}")
    repo.prune(casckpt.Keep(last=2, parts={"optimizer": casckpt.Keep(last=1)}))
    repo.gc()
    with pytest.raises(PrunedCommitError, match=repo.resolve("HEAD~2").id[:12]):
        repo.load("HEAD~2")
    for paths in (None, ["optimizer"], ["*m"], ["model.w", "optimizer.m"]):
        with pytest.raises(ReleasedPartError, match="optimizer") as caught:
            repo.load("HEAD~1", paths=paths)
        assert caught.value.parts == ("optimizer",)
    assert_same({"model": {"w": torch.full((500,), 1)}}, repo.load("HEAD~1", paths=["model.*"]))
    assert set(repo.load()) == {"model", "optimizer"}


def test_a_commit_on_a_released_base_stores_what_it_needs_again(repo) -> None:
    state = {"model": {"w": torch.rand(500)}, "optimizer": {"m": torch.rand(900)}}
    repo.commit(state)
    repo.prune(casckpt.Keep(parts={"optimizer": casckpt.Keep(last=1, branches=False, tags=False, best={})}))
    assert repo.resolve().released == ()
    repo.prune(casckpt.Keep(parts={"optimizer": casckpt.Keep(best={"none": ("min", 1)}, branches=False)}))
    assert repo.resolve().released == ("optimizer",)
    repo.gc()
    made = repo.commit(state)
    assert made.figures.new == 900 * 4
    assert_same(state, repo.load())


def test_what_was_collected_before_it_was_published_is_written_again(repo, monkeypatch) -> None:
    monkeypatch.setattr("casckpt.history.ingest.PUBLISHED_WITH", 0)
    monkeypatch.setattr("casckpt.tensors.writer.SAVE_BATCH", 0)  # each chunk is a batch
    repo.commit({"w": torch.zeros(3000)})
    other = Repository(repo.store)
    publish = Ingest.publish

    def late(ingest, *args, **kwargs):
        monkeypatch.setattr(Ingest, "publish", publish)
        assert other.gc().chunks > 0
        return publish(ingest, *args, **kwargs)

    monkeypatch.setattr(Ingest, "publish", late)
    state = {"w": torch.rand(3000)}
    made = repo.commit(state)
    assert made.figures.new == 12_000
    assert_same(state, repo.load(made.id))


def test_what_is_stored_is_hashed_where_it_is_written_from(repo, monkeypatch) -> None:
    state = {"w": torch.zeros(3000)}
    digest = repo.scheme.digest

    def written_to_meanwhile(kind: Kind, data: object) -> bytes:
        state["w"] += 1  # as another thread may, between the copying and the hashing
        return digest(kind, data)

    monkeypatch.setattr(repo, "scheme", dataclasses.replace(repo.scheme, digest=written_to_meanwhile))
    for _ in range(2):
        repo.commit(state)
    monkeypatch.undo()
    for revision in ("HEAD", "HEAD~1"):
        repo.load(revision)  # torn it may be, as the state was; what is stored is what its id says


def test_a_damaged_chunk_is_never_loaded(repo) -> None:
    made = repo.commit({"w": torch.rand(3000), "small": 1})
    with repo.store.read() as reader:
        key = next(reader.keys(Space.CHUNK))
        frame = bytearray(reader.get(Space.CHUNK, key) or b"")
    for at in (0, 10, 13, 30, len(frame) // 2, len(frame) - 1):
        damaged = bytearray(frame)
        damaged[at] ^= 4
        with repo.store.write(durable=True, room=None) as writer:
            writer.put(Space.CHUNK, key, damaged)
        with pytest.raises(CorruptObjectError):
            repo.load()
    with repo.store.write(durable=True, room=None) as writer:
        writer.delete(Space.CHUNK, key)
    with pytest.raises(MissingObjectError, match=key.hex()):
        repo.load(made.id)
    assert repo.load(paths=["small"]) == {"small": 1}


def test_a_node_of_another_length_is_refused(repo) -> None:
    from casckpt.objects.codec import encode
    from casckpt.objects.node import StorageNode, pack_node

    repo.commit({"w": torch.rand(3000)})
    with repo.store.read() as reader:
        key = next(reader.keys(Space.NODE))
    raw = pack_node(StorageNode(1024, 1024, bytes(16)))
    with repo.store.write(durable=True, room=None) as writer:
        writer.put(Space.NODE, key, encode(Kind.NODE, key, raw))
    with pytest.raises(CorruptObjectError):
        repo.load()


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ({"a": {"b": [1, object()]}}, "a.b.1"),
        ({"f": lambda: 1}, "f"),
        ({"o": np.array([object()])}, "o"),
        ({"m": torch.ones(2, device="meta")}, "m"),
    ],
)
def test_what_cannot_be_saved_is_named_and_leaves_the_store_as_it_was(repo, state, path) -> None:
    first = repo.commit({"w": torch.rand(3000)})
    before = objects(repo)
    with pytest.raises(UnsupportedTypeError) as caught:
        repo.commit({"new": torch.rand(3000), **state})
    assert caught.value.path == path and caught.value.remedy
    assert objects(repo) == before and repo.resolve().id == first.id


def test_a_description_out_of_bounds_is_refused_before_anything_is_written(repo) -> None:
    repo.commit({"w": 1})
    before = objects(repo)
    for wrong in (
        {"message": "x" * 70_000},
        {"step": 1 << 63},
        {"metrics": {str(n): 0.0 for n in range(5000)}},
        {"meta": {"t": torch.ones(1)}},
        {"meta": {"big": "x" * 300_000}},
    ):
        with pytest.raises(StateError):
            repo.commit({"w": torch.rand(3000)}, **wrong)
    assert objects(repo) == before


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"message": "\ud800"}, "message"),
        ({"step": 1.5}, "step"),
        ({"step": "7"}, "step"),
        ({"metrics": {"a": "x"}}, "metrics.a"),
        ({"metrics": {"a": 10**400}}, "metrics.a"),
        ({"metrics": {"\ud800": 1.0}}, "metrics"),
        ({"metrics": {f"{n}" + "x" * 1000: 1.0 for n in range(2000)}}, "metrics"),
    ],
)
def test_a_description_that_means_nothing_is_named(repo, wrong, path) -> None:
    with pytest.raises(StateError) as caught:
        repo.commit({"w": 1}, **wrong)
    assert caught.value.path == path
    assert not objects(repo)[Space.COMMIT]


def test_a_tensor_that_could_not_be_read_back_is_refused(repo) -> None:
    for tensor in (torch.zeros([1] * 65), torch.empty((0, 2**62)), torch.ones(2).as_strided((1, 2), (2**62, 0))):
        with pytest.raises(UnsupportedTypeError) as caught:
            repo.commit({"x": tensor})
        assert caught.value.path == "x"


def test_the_stride_of_a_single_element_says_nothing(repo) -> None:
    repo.commit({"x": torch.ones(1).as_strided((1,), (2**62,))})
    assert_same({"x": torch.ones(1)}, repo.load())


def test_a_list_has_no_parts_to_release(repo) -> None:
    state = ["model", torch.rand(500), "optimizer", torch.rand(900), 5]
    repo.commit(state)
    repo.commit([1])
    assert not repo.prune(casckpt.Keep(parts={"optimizer": casckpt.Keep(last=1, branches=False)})).changes
    repo.gc()
    assert_same(state, repo.load("HEAD~1"))


def test_integers_of_any_size_can_be_keys_and_members(repo) -> None:
    state = {10**5000: {10**5000, (10**5000,)}, (10**5000, 1): -(10**5000)}
    repo.commit(state)
    assert repo.load() == state
    repo.commit({10**5000: {10**5000}})
    key = hex(10**5000)
    changes = {(change.path, change.change) for change in repo.diff("HEAD~1", "HEAD")}
    assert changes == {
        (f"{key}.0.0", "removed"),
        (f"{key}.0", "added"),
        (f"{key}.1", "removed"),
        ("a tuple with a very long number", "removed"),
    }


def test_closing_waits_for_the_commit_in_flight(tmp_path, monkeypatch) -> None:
    repo = casckpt.open(tmp_path / "store", chunk_size=1024)
    closing = threading.Thread(target=repo.close)
    publish = Ingest.publish

    def close_meanwhile(ingest, *args, **kwargs):
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        return publish(ingest, *args, **kwargs)

    monkeypatch.setattr(Ingest, "publish", close_meanwhile)
    made = repo.commit({"w": torch.rand(3000)})
    closing.join()
    with casckpt.open(tmp_path / "store") as again:
        assert again.resolve().id == made.id


def test_an_interrupt_while_it_is_synced_leaves_the_handle_at_its_own_commit(repo, monkeypatch) -> None:
    repo.commit({"n": 0})
    environment = repo.store._environment
    sync = environment.sync

    def interrupted() -> None:
        sync()
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        repo.commit({"n": 1})
    monkeypatch.undo()
    assert repo.load() == {"n": 1}
    assert repo.commit({"n": 2}).parents == (repo.resolve("HEAD~1").id,)
    assert [repo.load(f"HEAD~{n}")["n"] for n in range(3)] == [2, 1, 0]


def test_a_record_that_lies_about_its_length_takes_no_memory(repo) -> None:
    from casckpt.objects.codec import encode
    from casckpt.objects.node import NodeRef
    from casckpt.objects.tree import canonical
    from casckpt.objects.values import Map, TensorRecord
    from casckpt.tensors.load import load as load_tree

    repo.commit({"w": torch.rand(3000)})
    with repo.store.read() as reader:
        node = next(reader.keys(Space.NODE))
    raw = canonical(Map((("w", TensorRecord("uint8", (1,), None, 0, NodeRef(node, 1 << 61), None, 0)),)))
    tree = repo.scheme.digest(Kind.TREE, raw)
    with repo.store.write(durable=True, room=None) as writer:
        writer.put(Space.TREE, tree, encode(Kind.TREE, tree, raw))
    with pytest.raises(CorruptObjectError, match="where 2305843009213693952 are expected"):
        repo.reading(lambda commits: load_tree(commits.objects, tree, (), None))


def test_a_description_comes_back(repo) -> None:
    made = repo.commit(
        {"w": 1},
        "warm-up done",
        step=np.int64(7),
        metrics={"loss": torch.tensor(0.5, requires_grad=True), "nan": math.nan, "np": np.float32(0.5)},
        meta={"git": "a1"},
    )
    again = repo.resolve()
    assert (again.message, again.step, again.metrics["loss"], again.meta) == ("warm-up done", 7, 0.5, {"git": "a1"})
    assert type(again.step) is int and math.isnan(again.metrics["nan"]) and again.id == made.id


def test_threads_share_a_repository(repo) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(10):
                made = repo.commit({"w": torch.full((2000,), number * 100 + n)}, f"{number}/{n}")
                assert_same({"w": torch.full((2000,), number * 100 + n)}, repo.load(made.id))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    log = [c.message for c in repo.log()]
    assert sorted(log) == sorted(f"{number}/{n}" for number in range(4) for n in range(10))
    for number in range(4):
        mine = [message for message in reversed(log) if message.startswith(f"{number}/")]
        assert mine == [f"{number}/{n}" for n in range(10)]


def test_two_handles_on_two_branches_commit_side_by_side(tmp_path) -> None:
    with casckpt.open(tmp_path / "s") as one, casckpt.open(tmp_path / "s", branch="b") as two:
        for n in range(3):
            one.commit({"n": n})
            two.commit({"n": -n})
        assert [one.load(f"main~{n}")["n"] for n in range(3)] == [2, 1, 0]
        assert [one.load(f"b~{n}")["n"] for n in range(3)] == [-2, -1, 0]
        with casckpt.open(tmp_path / "s") as late, pytest.raises(RefMovedError):
            one.commit({"n": 3})
            late.commit({"n": 4})


def test_an_unknown_revision_is_named(repo) -> None:
    for work in (repo.load, repo.resolve, repo.rollback):
        with pytest.raises(UnknownRevisionError, match="nope"):
            work("nope")


def test_nobody_s_tensors_lose_that_they_can_be_resized(repo) -> None:
    state = {"large": torch.rand(70_000), "small": torch.rand(3), "shared": torch.rand(9000)}
    state["view"] = state["shared"][10:5000]
    for _ in range(2):
        repo.commit(state)
    repo.commit_async(state).result()
    for tensor in (*state.values(), *repo.load().values(), repo.open_tensor("HEAD", "large")[5:]):
        assert tensor.untyped_storage().resizable()
    state["large"].untyped_storage().resize_(0)  # as FSDP does between two steps
    with pytest.raises(UnsupportedTypeError, match="freed"):
        repo.commit(state)
