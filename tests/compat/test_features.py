"""Each golden store of a feature gives back, for ever, what was put into it; and it is a store like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import casckpt
from casckpt.errors import PrunedCommitError, ReleasedPartError
from casckpt.objects.chain import is_halved
from casckpt.objects.frame import Codec, FrameHead, read_frame
from casckpt.objects.ids import SCHEMES
from casckpt.store.format import FORMAT_VERSION
from tests.compat.features import FEATURES, States, make, steps, there_are
from tests.compat.reader.store import Store
from tests.equality import assert_same

HERE = Path(__file__).parent
STORES = [
    f"v{version}-{name}-{hash}"
    for version in range(1, FORMAT_VERSION + 1)
    for name in there_are(version)
    for hash in SCHEMES
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, States]:
    """What must come out, by feature; made by filling a store of today's."""
    return {name: make(name, "xxh3_128", tmp_path_factory.mktemp("today") / "store") for name in FEATURES}


@pytest.fixture(params=STORES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    shutil.copytree(HERE / request.param, tmp_path / "store")
    return request.param.partition("-")[2].rpartition("-")[0], tmp_path / "store"


def test_a_golden_store_of_each_feature_gives_back_what_was_put_in(
    golden: tuple[str, Path], expected: dict[str, States]
) -> None:
    name, path = golden
    with casckpt.open(path, create=False) as repo:
        for revision, state in expected[name].items():
            if state is None:
                with pytest.raises(PrunedCommitError):
                    repo.load(revision)
                continue
            released = repo.resolve(revision).released
            if released:
                with pytest.raises(ReleasedPartError):
                    repo.load(revision)
            assert_same(state, repo.load(revision, paths=list(state) if released else None))


def test_a_golden_store_can_be_written_to_and_collected_and_is_sound(
    golden: tuple[str, Path], expected: dict[str, States]
) -> None:
    name, path = golden
    state = next(state for state in reversed(expected[name].values()) if state is not None)
    with casckpt.open(path, create=False) as repo:
        assert repo.fsck(read_data=True).ok
        made = repo.commit(state, "again")
        assert made.figures is not None and made.figures.new_chunks == 0
        repo.commit({"another": list(range(3000))}, "another")
        repo.prune(casckpt.Keep(last=2))
        repo.gc()
        assert_same(state, repo.load(made.id))
        assert_same({"another": list(range(3000))}, repo.load())
        assert not repo.fsck(read_data=True).findings
    assert Store(path).check()["whole commits"] >= 1


def test_the_same_state_has_the_same_tree_as_when_the_store_was_made(
    golden: tuple[str, Path], expected: dict[str, States]
) -> None:
    name, path = golden
    with casckpt.open(path, create=False) as repo:
        for revision, state in expected[name].items():
            before = repo.resolve(revision)
            if state is None or before.released:
                continue
            assert repo.commit(state, "again").tree == before.tree, revision
            repo.rollback("HEAD~1")


def test_every_codec_is_in_a_golden_store() -> None:
    seen = {codec for path in HERE.glob("v2-*") for codec in Store(path).codecs()}
    assert seen == set(Codec)


def chunk_heads(path: Path) -> list[FrameHead]:
    return [read_frame(memoryview(frame))[0] for frame in Store(path)._spaces["chunk"].values()]


def test_words_in_halves_are_in_golden_stores_by_every_codec_that_may_have_them() -> None:
    seen = {head.codec for path in HERE.glob("v2-*-xxh3_128") for head in chunk_heads(path) if is_halved(head)}
    assert seen == {Codec.ROTATED_PLANES, Codec.DELTA_PLANES, Codec.SORTED_DELTA}


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
@pytest.mark.parametrize("hash", SCHEMES)
def test_a_store_keeps_the_format_that_it_has_whatever_is_committed(version: int, hash: str, tmp_path: Path) -> None:
    shutil.copytree(HERE / f"v{version}-{hash}", tmp_path / "store")
    with casckpt.open(tmp_path / "store", create=False) as repo:
        repo.commit(steps(0), "dense")
        repo.commit(steps(1), "dense")
        repo.gc()
        repo.compact()
        assert_same(steps(1), repo.load())
    store = Store(tmp_path / "store")
    assert store.format["version"] == version and store.check()
    assert (max(store.codecs()) > Codec.ZSTD) == (version > 1)
