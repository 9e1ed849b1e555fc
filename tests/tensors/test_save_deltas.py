"""Deltas of the save pipeline: what they are taken to, how deep they go, and that nothing is lost by them."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import casckpt
from casckpt.errors import CorruptObjectError, StoreSettingsError
from casckpt.history.bases import all_bases, base_of, depth_of
from casckpt.limits import CODECS, DEPTHS
from casckpt.objects.frame import DELTAS, Codec, read_frame
from casckpt.store.protocol import Space
from casckpt.tensors import load as pipeline
from casckpt.tensors.repository import Repository
from tests.equality import assert_same

CHUNK = 16384


def steps(count: int, *, rate: float = 1e-4, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[dict[str, Any]]:
    """A weight that moves a little at every step, and one that does not."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(10_000, generator=generator) * 0.02
    frozen = torch.randn(5_000, generator=generator).to(dtype)
    states = []
    for step in range(count):
        states.append({"w": weight.to(dtype).clone(), "frozen": frozen, "step": step})
        weight = weight + rate * torch.randn(10_000, generator=generator)
    return states


def codecs(repo: Repository) -> Counter[Codec]:
    with repo.store.read() as reader:
        return Counter(read_frame(value)[0].codec for _, value in reader.items(Space.CHUNK))


def depths(repo: Repository) -> list[int]:
    """Of the first chunk of `w`, in each commit from the first on."""
    found = []
    for commit in reversed(list(repo.log())):
        chunk = repo.open_tensor(commit.id, "w")._stored.ids()[0]  # type: ignore[union-attr]
        with repo.store.read() as reader:
            found.append(depth_of(reader, chunk))
    return found


@pytest.mark.parametrize("mode", CODECS)
def test_every_commit_of_a_dense_history_comes_back_by_any_codec(tmp_path: Path, mode: str) -> None:
    states = steps(12)
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK, codec=mode) as repo:
        for state in states:
            repo.commit(state)
        assert max(depths(repo)) == DEPTHS[mode]
        if not DEPTHS[mode]:
            assert not DELTAS & set(codecs(repo))
    with casckpt.open(tmp_path / "s", create=False) as repo:
        for back, state in enumerate(reversed(states)):
            assert_same(repo.load(f"HEAD~{back}"), state)
        assert not repo.fsck(read_data=True).findings


def test_a_chain_ends_with_a_keyframe_and_begins_anew(tmp_path: Path) -> None:
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK) as repo:
        for state in steps(7):
            repo.commit(state)
        assert depths(repo) == [at % (DEPTHS["auto"] + 1) for at in range(7)]


def test_a_delta_is_taken_across_branches_and_after_a_rollback(tmp_path: Path) -> None:
    first, second, third, fourth = steps(4)
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK) as repo:
        repo.commit(first)
        repo.switch("other", create=True)
        repo.commit(second)
        assert depths(repo) == [0, 1]
        repo.rollback("HEAD~1")
        repo.commit(third)
        assert depths(repo) == [0, 1]
        with casckpt.open(tmp_path / "s", branch="main") as main:
            main.commit(fourth)
            assert depths(main) == [0, 1]


def test_a_fine_tune_is_a_delta_to_the_imported_base_model_whatever_the_model_is_called_in_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    before, after = steps(2)
    save_file({"layers.0.w": before["w"], "layers.1.w": before["frozen"]}, tmp_path / "base.safetensors")
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK) as repo:
        repo.import_file(tmp_path / "base.safetensors")
        made = repo.commit({"model": {"layers.0.w": after["w"], "layers.1.w": after["frozen"]}, "lr": 0.1})
        assert made.figures is not None
        assert made.figures.new == after["w"].nbytes  # what is frozen is there
        assert set(codecs(repo)) & DELTAS
        assert_same(repo.load()["model"]["layers.0.w"], after["w"])


def test_the_codec_of_one_commit_is_its_own(tmp_path: Path) -> None:
    states = steps(3)
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK) as repo:
        repo.commit(states[0], codec="none")
        assert set(codecs(repo)) == {Codec.RAW}
        repo.commit_async(states[1], codec="fast").result()
        assert not set(codecs(repo)) & DELTAS
        repo.commit(states[2])
        assert set(codecs(repo)) & DELTAS
        for call in (repo.commit, repo.commit_async):
            with pytest.raises(StoreSettingsError, match="unknown codec 'best'"):
                call({"n": 1}, codec="best")
        assert [commit.step for commit in repo.log()] == [None] * 3


def test_a_damaged_base_is_not_built_upon(tmp_path: Path) -> None:
    first, second = steps(2)
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK, codec="none") as repo:
        repo.commit(first)
        with repo.store.write(durable=True, room=None) as writer:
            for key, value in list(writer.items(Space.CHUNK)):
                damaged = bytearray(value)
                damaged[-1] ^= 1
                writer.put(Space.CHUNK, key, damaged)
        repo.commit(second | {"frozen": None}, codec="auto")
        with repo.store.read() as reader:
            assert not list(all_bases(reader))
        assert_same(repo.load(), second | {"frozen": None})
        with pytest.raises(CorruptObjectError):
            repo.load("HEAD~1")


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_moves_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["<f4", "<f2", "<f8", "<i8", "<i2", "|u1", "<c8", ">f4"]))
    mode = data.draw(st.sampled_from(CODECS))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    count = data.draw(st.integers(100, 3000))
    array = rng.integers(0, 256, count * np.dtype(dtype).itemsize, np.uint8)
    arrays = []
    for _ in range(5):
        how = data.draw(st.sampled_from(["few", "all", "small", "none", "longer", "constant"]))
        if how == "few":
            array[rng.integers(0, len(array), 5)] += 1
        elif how == "all":
            array = rng.integers(0, 256, len(array), np.uint8)
        elif how == "small":
            array[:: np.dtype(dtype).itemsize] += rng.integers(0, 3, count, np.uint8)[
                : len(array[:: np.dtype(dtype).itemsize])
            ]
        elif how == "longer":
            array = np.concatenate([array, array[: np.dtype(dtype).itemsize]])
            count += 1
        elif how == "constant":
            array[:] = 7
        arrays.append(array.view(dtype).copy())
    with casckpt.open(tmp_path_factory.mktemp("s") / "s", chunk_size=4096, codec=mode) as repo:
        for array in arrays:
            repo.commit({"a": array})
        for back, array in enumerate(reversed(arrays)):
            assert repo.load(f"HEAD~{back}")["a"].tobytes() == array.tobytes()


def test_a_base_of_several_chunks_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.randn(4000)
    changed = [base.clone() for _ in range(6)]
    for number, tensor in enumerate(changed):
        tensor[number] += 1
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK) as repo:
        repo.commit({str(number): base.clone() for number in range(6)})
        repo.commit({str(number): tensor for number, tensor in enumerate(changed)})
        with repo.store.read() as reader:
            assert len({base for _, base in all_bases(reader)}) == 1
        decoded: Counter[bytes] = Counter()
        real, lock = pipeline.decode_into, threading.Lock()

        def counted(scheme: Any, chain: Any, out: memoryview) -> None:
            with lock:
                decoded.update(link.head.id for link in chain.links)
            real(scheme, chain, out)

        monkeypatch.setattr(pipeline, "decode_into", counted)
        assert_same(repo.load(), {str(number): tensor for number, tensor in enumerate(changed)})
        assert sorted(decoded.values()) == [1] * 7


def test_a_store_of_format_1_is_written_as_one(tmp_path: Path) -> None:
    import shutil

    golden = Path(__file__).parent.parent / "compat" / "v1-codec-auto-xxh3_128"
    shutil.copytree(golden, tmp_path / "s")
    with casckpt.open(tmp_path / "s") as repo:
        for state in steps(3):
            repo.commit(state)
        assert set(codecs(repo)) <= {Codec.RAW, Codec.ZSTD}
        assert_same(repo.load(), steps(3)[-1])
        with repo.store.read() as reader:
            assert base_of(reader, repo.open_tensor("HEAD", "w")._stored.ids()[0]) is None  # type: ignore[union-attr]


def test_a_base_is_read_whole_while_batches_bring_newer_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("casckpt.history.ingest", "casckpt.tensors.writer"):
        monkeypatch.setattr(f"{place}.SAVE_BATCH", 32 * 1024)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1_000_000, generator=generator)
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK, codec="small") as repo:
        for step in range(4):
            repo.commit({"w": weight}, step=step)
            assert_same(repo.load(), {"w": weight})
            weight = weight + 1e-4 * torch.randn(1_000_000, generator=generator)
        assert max(depths(repo)) == 3
        repo.compact()  # waits until no transaction is left
        assert not repo.fsck(read_data=True).findings


@pytest.mark.parametrize("batch", [1 << 25, 16 * 1024])
def test_a_base_that_is_collected_while_a_save_builds_on_it_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    for place in ("casckpt.history.ingest", "casckpt.tensors.writer"):
        monkeypatch.setattr(f"{place}.SAVE_BATCH", batch)
    first, second, third = steps(3)
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK) as repo, casckpt.open(tmp_path / "s") as other:
        repo.commit(first)
        freed = []

        def collect() -> None:
            other.prune(casckpt.Keep(best={"loss": ("min", 1)}, branches=False))
            freed.append(other.gc().chunks)

        repo.commit(second, before_publish=collect)
        assert freed[0]
        assert next(iter(repo.log("HEAD~1"))).pruned
        assert_same(repo.load(), second)
        assert not repo.fsck(read_data=True).findings
        repo.commit(third)
        assert_same(repo.load(), third)
        repo.gc()
        assert_same(repo.load("HEAD~1"), second)
        assert not repo.fsck(read_data=True).findings


@pytest.mark.parametrize("place", ["encoding.split", "encoding.delta.difference", "chain.delta.add", "chain.join"])
def test_a_signal_handler_that_commits_and_loads_while_a_chunk_is_coded_changes_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    states, others = steps(5), steps(5, seed=1)
    with (
        casckpt.open(tmp_path / "s", chunk_size=CHUNK) as repo,
        casckpt.open(tmp_path / "other", chunk_size=CHUNK) as other,
    ):
        handled = [True]

        def interrupted(*args: Any, **more: Any) -> Any:
            if not handled[0]:  # as a handler that is not interrupted by itself
                handled[0] = True
                other.commit(others.pop())
                other.load()
                handled[0] = False
            return step(*args, **more)

        step = resolve_name(f"casckpt.objects.{place}")
        for state in states[:2]:
            repo.commit(state)
            other.commit(others.pop())
        handled[0] = False
        others.extend(steps(200, seed=2))
        with monkeypatch.context() as patch:
            patch.setattr(f"casckpt.objects.{place}", interrupted)
            for state in states[2:]:
                repo.commit(state)
                assert_same(repo.load(), state)
        for back, state in enumerate(reversed(states)):
            assert_same(repo.load(f"HEAD~{back}"), state)
        assert not repo.fsck(read_data=True).findings


def test_gc_and_repack_know_what_a_save_found_by_the_end_of_its_path(tmp_path: Path) -> None:
    def stored(repo: Repository) -> int:
        return sum(amount.stored for amount in repo.codec_stats().by_codec.values())

    base, *others = [state["w"] for state in steps(5, dtype=torch.bfloat16)]
    states = [{"layers": {"0": base}}, *({"model": {"layers": {"0": tensor}}} for tensor in others)]
    with casckpt.open(tmp_path / "s", chunk_size=CHUNK) as repo:
        for step, state in enumerate(states):
            repo.commit(state, step=step)
        repo.prune(casckpt.Keep(every_steps=2))
        repo.expire_reflog()
        assert repo.gc().reencoded_chunks
        with casckpt.open(tmp_path / "fresh", chunk_size=CHUNK) as fresh:
            for step in (0, 2, 4):
                fresh.commit(states[step], step=step)
            assert stored(repo) <= 1.01 * stored(fresh)
        for step in (0, 2, 4):
            assert_same(repo.load(f"step:{step}"), states[step])
    with casckpt.open(tmp_path / "none", chunk_size=CHUNK, codec="none") as raw:
        for step, state in enumerate(states[:2]):
            raw.commit(state, step=step)
        raw.repack(codec="auto")
        assert set(codecs(raw)) & DELTAS
