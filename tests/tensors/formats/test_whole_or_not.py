"""An export is there whole or not at all: killed, interrupted, or out of room, the old file is as it was."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from casckpt.errors import ExportError, ExportFullError, UnsupportedTypeError
from casckpt.tensors.formats import pretrained, read_state, replace, swap
from casckpt.tensors.formats.write import write_state
from tests.equality import assert_same
from tests.processes import Program, run

TARGETS = {"w.safetensors": "safetensors", "w.pt": "torch", "w.npz": "npz", "folder": "pretrained"}


def state(number: int) -> dict[str, Any]:
    return {"w": torch.full((3000,), float(number)), "v": torch.full((5,), number)}


def export(folder: Path, name: str, number: int, **options: Any) -> None:
    write_state(state(number), folder / name, TARGETS[name], **options)


def number_in(folder: Path, name: str) -> int:
    found = read_state(folder / name).state
    found = found["model"] if TARGETS[name] == "pretrained" else found
    number = int(found["v"][0])
    assert set(found) == set(state(number))
    assert all(torch.equal(found[key], tensor) for key, tensor in state(number).items())
    return number


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path, name: str) -> None:
    export(tmp_path, name, 1)
    with pytest.raises(ExportError, match="is there already"):
        export(tmp_path, name, 2)
    assert number_in(tmp_path, name) == 1
    export(tmp_path, name, 2, overwrite=True)
    assert number_in(tmp_path, name) == 2
    assert names(tmp_path) == [name]


def fault_points(monkeypatch: pytest.MonkeyPatch, fail_at: int, error: BaseException) -> Callable[[], int]:
    """Have the n-th call to the system fail; returns a counter of the calls."""
    calls = 0

    def failing(holder: Any, name: str) -> None:
        real = getattr(holder, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if "dir_fd" in options:  # shutil, tidying up
                return real(*arguments, **options)
            calls += 1
            if calls == fail_at:
                raise error
            return real(*arguments, **options)

        monkeypatch.setattr(holder, name, call)

    failing(replace, "write_all")
    failing(replace, "free_bytes")
    failing(replace, "_put")
    failing(replace.os, "open")
    failing(replace.os, "fsync")
    failing(swap, "_exchange")
    failing(Path, "mkdir")
    failing(Path, "rename")
    return lambda: calls


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left"), OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()],
    ids=["full", "broken", "interrupted"],
)
@pytest.mark.parametrize("before", [True, False], ids=["over another", "anew"])
@pytest.mark.parametrize("name", TARGETS)
def test_whatever_fails_the_old_file_or_the_new_is_there_whole(
    tmp_path: Path, name: str, before: bool, error: BaseException
) -> None:
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ExportError
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        expected = ExportFullError
    for fail_at in range(1, 200):
        folder = tmp_path / str(fail_at)
        folder.mkdir()
        if before:
            export(folder, name, 1)
        with pytest.MonkeyPatch.context() as patch:
            calls = fault_points(patch, fail_at, error)
            try:
                export(folder, name, 2, overwrite=True)
            except (ExportError, KeyboardInterrupt) as raised:
                assert isinstance(raised, expected)
            else:
                assert calls() < fail_at, "an error was swallowed"
                assert number_in(folder, name) == 2
                break
        found = names(folder)
        assert found in ([], [name])
        assert not (before and not found), "the old file is gone"
        if found:
            assert number_in(folder, name) in ((1, 2) if before else (2,))
    else:
        pytest.fail("it never came to its end")
    assert fail_at > 5


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.npz"])
def test_a_disk_that_takes_no_changes_any_more_is_told_as_what_it_did_first(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    export(tmp_path, name, 1)
    with monkeypatch.context() as patch:
        patch.setattr(replace.os, "fsync", refuse)
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(ExportError, match="cannot be written"):
            export(tmp_path, name, 2, overwrite=True)
    assert number_in(tmp_path, name) == 1


@pytest.mark.parametrize("name", TARGETS)
def test_an_interrupt_at_any_progress_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    export(tmp_path, name, 1)

    def interrupt(stage: str, done: int, total: int) -> None:
        assert 0 < done <= total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path, name, 2, overwrite=True, progress=interrupt)
    assert names(tmp_path) == [name]
    assert number_in(tmp_path, name) == 1


KILLED = """
    import sys
    import torch
    from pathlib import Path
    from casckpt.tensors.formats.write import write_state

    def wait(stage, done, total):
        print("writing", flush=True)
        sys.stdin.readline()

    state = {"w": torch.full((3000,), 2.0), "v": torch.full((5,), 2)}
    write_state(state, Path(sys.argv[1]), sys.argv[2], overwrite=True, progress=wait)
    print("done", flush=True)
"""


@pytest.mark.parametrize("name", TARGETS)
def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    export(tmp_path, name, 1)
    killed = 0
    with Program(KILLED, tmp_path / name, TARGETS[name]) as program:
        assert program.line() == "writing"
        program.say()
        killed += program.line() == "writing"
        program.process.send_signal(signal.SIGKILL)
        program.process.wait()
    assert killed
    assert number_in(tmp_path, name) == 1
    assert all(
        found == name or (found.startswith(f".{name}.") and found.endswith(".part")) for found in names(tmp_path)
    )
    export(tmp_path, name, 3, overwrite=True)
    assert number_in(tmp_path, name) == 3


def test_room_on_the_disk_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replace, "free_bytes", lambda path: 5000)
    for name in TARGETS:
        with pytest.raises(ExportFullError, match="5000 are free") as refused:
            export(tmp_path, name, 1)
        assert refused.value.needed > refused.value.available == 5000
    assert not names(tmp_path)


def test_a_limit_of_the_system_on_the_size_of_files_is_a_typed_error(tmp_path: Path) -> None:
    said = run(
        """
        import resource, signal, sys
        import torch
        from pathlib import Path
        from casckpt.errors import ExportError
        from casckpt.tensors.formats.write import write_state

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        names = {"a.safetensors": "safetensors", "a.pt": "torch", "a.npz": "npz", "a": "pretrained"}
        for name, format in names.items():
            try:
                write_state({"w": torch.ones(3000)}, Path(sys.argv[1]) / name, format)
            except ExportError as error:
                print(type(error).__name__, error.__cause__.errno if error.__cause__ else error)
        """,
        tmp_path,
    )
    assert said.splitlines() == [f"ExportError {errno.EFBIG}"] * 4
    assert not names(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_every_byte_is_synced_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, overwrite: bool
) -> None:
    calls: list[tuple[str, int]] = []
    sync, link, rename = os.fsync, os.link, os.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        calls.append(("sync", os.fstat(descriptor).st_ino))

    def named(really: Any) -> Any:
        def put(old: Any, new: Any, *given: Any, **options: Any) -> None:
            really(old, new, *given, **options)
            calls.append(("name", Path(new).stat().st_ino))

        return put

    monkeypatch.setattr(os, "fsync", synced)
    for call, really in (("link", link), ("replace", rename), ("rename", os.rename)):
        monkeypatch.setattr(os, call, named(really))
    export(tmp_path, name, 1, overwrite=overwrite)
    assert calls[-1] == ("sync", tmp_path.stat().st_ino)
    target = tmp_path / name
    files = list(target.iterdir()) if target.is_dir() else [target]
    for file in (*files, target):
        inode = file.stat().st_ino
        assert calls.index(("sync", inode)) < calls.index(("name", inode))


def test_a_file_that_came_there_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pt", "w.npz"):

        def meanwhile(stage: str, done: int, total: int, name: str = name) -> None:
            (tmp_path / name).write_bytes(b"somebody else's")

        with pytest.raises(ExportError, match="is there already"):
            export(tmp_path, name, 1, progress=meanwhile)
        assert (tmp_path / name).read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["w.npz", "w.pt", "w.safetensors"]


def test_a_folder_that_fills_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    export(tmp_path, "folder", 1)

    def meanwhile(stage: str, done: int, total: int) -> None:
        (tmp_path / "folder" / "notes").mkdir(exist_ok=True)

    with pytest.raises(ExportError, match="not replaced"):
        export(tmp_path, "folder", 2, overwrite=True, progress=meanwhile)
    assert number_in(tmp_path, "folder") == 1
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_comes_there_at_the_last_moment_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = pretrained.put_folder

    def put(new: Path, target: Path, *, overwrite: bool) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"somebody else's")
        really(new, target, overwrite=overwrite)

    monkeypatch.setattr(pretrained, "put_folder", put)
    with pytest.raises(ExportError, match="not empty"):
        export(tmp_path, "folder", 1)
    assert (tmp_path / "folder" / "model.safetensors").read_bytes() == b"somebody else's"
    assert names(tmp_path) == ["folder"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    export(tmp_path / "real", "w.safetensors", 1)
    (tmp_path / "w.safetensors").symlink_to("real/w.safetensors")
    export(tmp_path, "w.safetensors", 2, overwrite=True)
    assert (tmp_path / "w.safetensors").is_symlink()
    assert number_in(tmp_path / "real", "w.safetensors") == 2


def test_targets_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "dir.pt").mkdir()
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.pt")
    for name, format, match in (
        ("dir.pt", "torch", "is a folder"),
        ("none/w.pt", "torch", "its folder is not there"),
        ("none/out", "pretrained", "its folder is not there"),
        ("file/out", "pretrained", "its folder is not there"),
        ("file", "pretrained", "is a file"),
        ("pipe.pt", "torch", "no regular file"),
    ):
        with pytest.raises(ExportError, match=match):
            write_state(state(1), tmp_path / name, format, overwrite=True)
    assert names(tmp_path) == ["dir.pt", "file", "pipe.pt"]


# -- shards beside other files -----------------------------------------------------------------------------------------


def test_shards_never_mix_with_those_of_another_export(tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    write_state(state(1), target, "safetensors")
    with pytest.raises(ExportError, match="there already"):
        write_state(state(2), target, "safetensors", max_shard_size=8000)
    write_state(state(2), target, "safetensors", max_shard_size=8000, overwrite=True)
    kept = ["w-00001-of-00002.safetensors", "w-00002-of-00002.safetensors", "w.safetensors.index.json"]
    assert names(tmp_path) == kept
    with pytest.raises(ExportError, match="cannot be replaced at once"):
        write_state(state(3), target, "safetensors", max_shard_size=8000, overwrite=True)
    assert_same(read_state(tmp_path / kept[-1]).state, state(2))
    assert names(tmp_path) == kept


def test_a_failure_between_shards_takes_back_those_that_were_written(tmp_path: Path) -> None:
    many = {str(number): torch.ones(1000) for number in range(5)}

    def late(stage: str, done: int, total: int) -> None:
        assert total == 20_000
        if done > 12_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_state(many, tmp_path / "w.safetensors", "safetensors", max_shard_size=4000, progress=late)
    assert not names(tmp_path)


def test_a_state_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    for name, format in TARGETS.items():
        bad = {"w": torch.arange(9.0).unfold(0, 3, 1), "odd": frozenset([1])}
        with pytest.raises(UnsupportedTypeError):
            write_state(bad, tmp_path / name, format)
    assert not names(tmp_path)
