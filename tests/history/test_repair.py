"""A second copy heals the first: what is bad or missing is fetched by id, whatever it is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from casckpt.errors import NotAStoreError, StoreBusyError, StoreNotFoundError, StoreSettingsError
from casckpt.history import repair
from casckpt.history.bases import base_of
from casckpt.history.fsck import data, findings, structure
from casckpt.history.repository import History
from casckpt.objects.ids import Kind
from casckpt.store.lmdb_store import open_store
from casckpt.store.protocol import Reader, Space, Store
from tests.history.damage import chained, errors, flip, keys, put, tip
from tests.history.pages import SIZE, File
from tests.history.world import commit, load, noise


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(open_store(tmp_path / "store", chunk_size=256)) as made:
        chained(made, 6)
        made.tag("v1", at="HEAD~2")
        made.backup(str(tmp_path / "copy"))
        yield made


def healed(history: History, copy: Path) -> dict[str, int]:
    """Heal, and see that nothing is wrong any more; the number of objects by kind."""
    dry = history.repair(copy, dry_run=True)
    assert dry.ok and dry.dry_run and dry.before == dry.after
    report = history.repair(copy)
    assert report.ok and not errors(report.after) and not report.lost
    assert set(dry.objects) <= set(report.objects) and not history.fsck(read_data=True).findings
    return report.healed


@pytest.mark.parametrize("space", [Space.COMMIT, Space.TREE, Space.NODE, Space.CHUNK])
@pytest.mark.parametrize("is_missing", [False, True], ids=["damaged", "missing"])
def test_an_object_is_healed_whatever_it_is_and_every_state_loads_again(
    history: History, tmp_path: Path, space: Space, is_missing: bool
) -> None:
    states = {one.id: load(history, one.id) for one in history.log()}
    for oid in keys(history.store, space):
        if is_missing:
            put(history.store, space, oid, None)
        else:
            flip(history.store, space, oid)
        assert sum(healed(history, tmp_path / "copy").values()) >= 1
    assert {oid: load(history, oid) for oid in states} == states
    history.gc()
    assert history.fsck(read_data=True).ok


def test_what_lies_behind_what_is_missing_is_fetched_with_it(history: History, tmp_path: Path) -> None:
    for space in (Space.COMMIT, Space.TREE, Space.NODE, Space.CHUNK, Space.BASE, Space.DEPENDANT):
        for key in keys(history.store, space):
            put(history.store, space, key, None)
    found = healed(history, tmp_path / "copy")
    assert found["commit"] == 6 and found["chunk"] == 18


def test_many_damages_at_once_are_healed(history: History, tmp_path: Path) -> None:
    for seed in range(12):
        chance = random.Random(seed)
        for space in chance.choices(list(Space)[:6], k=5):
            oid = chance.choice(keys(history.store, space) or [b""])
            if oid and (chance.random() < 0.5 or space in (Space.BASE, Space.DEPENDANT)):
                put(history.store, space, oid, None)
            elif oid:
                flip(history.store, space, oid)
        healed(history, tmp_path / "copy")


def test_records_of_deltas_are_mended_by_what_the_frames_say(history: History, tmp_path: Path) -> None:
    with history.store.read() as reader:
        deltas = list(reader.keys(Space.BASE))
        first, second = deltas[:2]
        base, below = base_of(reader, first), base_of(reader, second)
        alone = next(oid for oid in reader.keys(Space.CHUNK) if oid not in deltas)
    assert base is not None and below is not None
    put(history.store, Space.BASE, first, None)
    put(history.store, Space.DEPENDANT, below + second, None)
    put(history.store, Space.BASE, alone, first)
    put(history.store, Space.DEPENDANT, alone + first, b"")
    report = history.repair(tmp_path / "copy")
    assert report.healed == {} and report.records == 4 and not errors(report.after)
    with history.store.read() as reader:
        assert base_of(reader, first) == base and base_of(reader, alone) is None


def test_what_is_put_stands_by_itself(history: History, tmp_path: Path) -> None:
    with history.store.read() as reader:
        delta = next(reader.keys(Space.BASE))
    flip(history.store, Space.CHUNK, delta)
    assert healed(history, tmp_path / "copy") == {"chunk": 1}
    with history.store.read() as reader:
        assert base_of(reader, delta) is None


def test_where_a_base_is_nowhere_what_lies_over_it_is_fetched(history: History, tmp_path: Path) -> None:
    newest = load(history, "main")
    with History(open_store(tmp_path / "other", chunk_size=256, codec="none")) as other:
        commit(other, newest)
    with history.store.read() as reader:
        delta = next(history.scheme.digest(Kind.CHUNK, newest["model"]["w"][at : at + 256]) for at in (0, 256))
        base = base_of(reader, delta)
    assert base is not None
    flip(history.store, Space.CHUNK, base)
    report = history.repair(tmp_path / "other")
    assert f"chunk {delta.hex()}" in report.objects and f"chunk {base.hex()}" in report.lost
    assert not report.ok and load(history, "main") == newest


def test_more_chunks_than_a_check_names_are_healed_at_once(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = []
    real = repair.fsck
    monkeypatch.setattr(repair, "fsck", lambda *args, **more: checks.append(1) or real(*args, **more))
    for module in (repair, data, structure, findings):
        monkeypatch.setattr(module, "MAX_FINDINGS", 2)
    for number, oid in enumerate(keys(history.store, Space.CHUNK)):
        if number % 2:
            flip(history.store, Space.CHUNK, oid)
        else:
            put(history.store, Space.CHUNK, oid, None)
    report = history.repair(tmp_path / "copy")
    assert report.ok and report.healed == {"chunk": 18} and len(checks) <= 4


def test_a_copy_that_is_damaged_itself_does_no_harm(history: History, tmp_path: Path) -> None:
    with History(open_store(tmp_path / "copy", create=False)) as copy:
        for oid in keys(copy.store, Space.CHUNK):
            flip(copy.store, Space.CHUNK, oid)
    newest = load(history, "main")
    flip(history.store, Space.TREE, keys(history.store, Space.TREE)[0])
    flip(history.store, Space.CHUNK, keys(history.store, Space.CHUNK)[0])
    report = history.repair(tmp_path / "copy")
    assert not report.ok and report.healed == {"tree": 1} and len(report.lost) >= 1
    assert {one.id for one in report.after.findings} <= {"damaged-chunk", "damaged-unreferenced"}
    assert newest


def test_a_sound_store_is_left_as_it_is(history: History, tmp_path: Path) -> None:
    report = history.repair(tmp_path / "copy")
    assert report.ok and not report.objects and not report.records and report.before == report.after


def test_damaged_pages_are_not_written_to(history: History, tmp_path: Path) -> None:
    file = File(tmp_path / "store")
    leaf = next(number for number, name in file.pages().items() if name == "figures")
    file.write(leaf * SIZE + 12, b"\xff\xff")
    report = history.repair(tmp_path / "copy")
    assert not report.ok and report.after.stopped and not report.objects


class Watched:
    """A store of which the readers that live are counted, and the keys that each gives."""

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self.open = self.keys = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        with self._store.read() as reader:
            self.open += 1
            yield WatchedReader(reader, self._most)  # type: ignore[misc]
            self.open -= 1


class WatchedReader:
    def __init__(self, reader: Reader, most: int) -> None:
        self._reader = reader
        self._left = most

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)

    def keys(self, space: Space, start: bytes = b"") -> Iterator[bytes]:
        for key in self._reader.keys(space, start):
            self._left -= 1
            assert self._left >= 0, "one transaction for too many keys"
            yield key

    def get(self, space: Space, key: bytes) -> memoryview | None:
        if space is Space.COMMIT:
            self._left -= 1
            assert self._left >= 0, "one transaction for too many commits"
        return self._reader.get(space, key)


def test_no_transaction_outlives_a_batch_in_either_store(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (repair, data):
        monkeypatch.setattr(module, "MAX_FINDINGS", 2)
    monkeypatch.setattr(repair, "CHECK_KEYS", 4)
    for space in (Space.COMMIT, Space.TREE, Space.CHUNK, Space.BASE):
        for key in keys(history.store, space):
            put(history.store, space, key, None)
    with History(open_store(tmp_path / "copy", create=False)) as copy:
        own, other = Watched(history.store, 5), Watched(copy.store, 5)
        real = repair.fsck

        def checked(store: Watched, *args: object, **more: object) -> object:
            assert own.open == other.open == 0
            return real(store._store, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(repair, "fsck", checked)
        report = repair.repair(own, history.scheme, other)  # type: ignore[arg-type]
    assert report.ok and report.healed["chunk"] == 18 and not history.fsck(read_data=True).findings


def test_another_store_must_be_one_and_another_and_have_the_same_hash(history: History, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        history.repair(tmp_path / "nowhere")
    with pytest.raises(NotAStoreError, match="itself"):
        history.repair(tmp_path / "store")
    with History(open_store(tmp_path / "blake", hash="blake3")) as other:
        commit(other, {"a": {"b": noise(1, 100)}})
    with pytest.raises(StoreSettingsError, match="blake3"):
        history.repair(tmp_path / "blake")
    with history.store.maintenance(), pytest.raises(StoreBusyError):
        history.repair(tmp_path / "copy")
    assert tip(history)
