"""Whether what another program writes is finished: it rests, nobody has it open for writing, and its end is there."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes

from casckpt.tensors.intake.settled import Settling, is_being_written, lacks
from casckpt.tensors.look import Look, look
from tests.processes import Program

STATE = {"w": torch.arange(1000, dtype=torch.float32), "b": torch.ones(3, 3)}


def torch_bytes() -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file)
    return file.getvalue()


FORMS = {"step_1.pt": torch_bytes(), "step_1.safetensors": safetensors_bytes(STATE)}


def seen(version: int) -> Look:
    return Look((("", 10, version, 1),))


# -- it rests ----------------------------------------------------------------------------------------------------------


@given(st.floats(0, 100), st.lists(st.tuples(st.floats(0, 50), st.integers(0, 2)), min_size=1, max_size=20))
def test_a_checkpoint_rests_if_every_look_since_so_long_ago_was_the_same(
    seconds: float, looks: list[tuple[float, int]]
) -> None:
    settling = Settling(seconds)
    now, since, before = 0.0, 0.0, None
    for pause, version in looks:
        now += pause
        first = version != before
        if first:
            since, before = now, version
        assert settling.rests("a", seen(version), now) == (not first and now - since >= seconds)


def test_a_name_that_went_and_came_again_rests_anew() -> None:
    settling = Settling(0)
    assert not settling.rests("a", seen(1), 0)
    assert settling.rests("a", seen(1), 0)
    settling.keep({"b"})
    assert not settling.rests("a", seen(1), 0)


def test_a_look_tells_bytes_times_and_replacement_and_whatever_is_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"four")
    (folder / "inner" / "more.bin").write_bytes(b"seven!!")
    before = look(folder)
    assert before is not None
    assert before.nbytes == 11
    assert look(folder) == before
    (tmp_path / "other").write_bytes(b"FOUR")
    (tmp_path / "other").replace(folder / "model.safetensors")
    assert look(folder) != before
    (folder / "inner" / "new").touch()
    assert [name for name, *_ in look(folder).files] == ["inner/more.bin", "inner/new", "model.safetensors"]
    assert look(tmp_path / "none") is None


# -- nobody has it open for writing ------------------------------------------------------------------------------------

WRITER = """
    import mmap, sys
    how = sys.argv[2]
    file = open(sys.argv[1], "rb" if how == "read" else "r+b")
    if how == "map":
        held = mmap.mmap(file.fileno(), 0)
        file.close()
    print("open", flush=True)
    input()
    if how == "map":
        held.close()
    file.close()
    print("closed", flush=True)
    input()
"""


@pytest.mark.parametrize(("how", "writes"), [("write", True), ("map", True), ("read", False)])
def test_a_file_is_being_written_while_another_process_has_it_open_for_that(
    how: str, writes: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    path = folder / "model.safetensors"
    path.write_bytes(b"some bytes")
    with Program(WRITER, path, how) as writer:
        assert writer.line() == "open"
        assert is_being_written(path) == writes
        assert is_being_written(folder) == writes
        writer.say()
        assert writer.line() == "closed"
        assert not is_being_written(path)
        assert not is_being_written(folder)
        writer.end()


def test_a_writer_that_comes_while_we_ask_waits_a_moment_and_does_not_end_us(tmp_path: Path) -> None:
    """The kernel sends a signal to whoever holds a lease that a writer wants; by default that signal is deadly."""
    path = tmp_path / "step_1.pt"
    path.write_bytes(b"some bytes")
    asker = """
        import fcntl, sys
        from casckpt.tensors.intake import settled
        really = fcntl.fcntl
        def held(descriptor, command, argument):
            if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_UNLCK):
                print("held", flush=True)
                input()
            return really(descriptor, command, argument)
        settled.fcntl.fcntl = held
        print(settled.is_being_written(settled.Path(sys.argv[1])), flush=True)
        input()
    """
    writer = """
        import os, sys
        try:
            os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)
        except BlockingIOError:
            print("must wait", flush=True)
        with open(sys.argv[1], "wb") as file:
            file.write(b"new")
        print("written", flush=True)
        input()
    """
    with Program(asker, path) as asking:
        assert asking.line() == "held"
        with Program(writer, path) as writing:
            assert writing.line() == "must wait"
            asking.say()
            assert writing.line() == "written"
            writing.end()
        assert asking.line() == "False"
        asking.end()
    assert path.read_bytes() == b"new"


def test_what_is_gone_is_told_by_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_being_written(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError):
        lacks(tmp_path / "none.pt")


# -- its end is there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
def test_a_file_that_ends_early_lacks_something_wherever_it_was_cut(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = FORMS[name]
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(whole)
    assert lacks(path) is None
    path.write_bytes(whole[: data.draw(st.integers(4, len(whole) - 1))])
    assert lacks(path)


@pytest.mark.parametrize("name", ["step_1.pt", "step_1.safetensors", "step_1.bin"])
@given(raw=st.binary(max_size=200))
def test_any_bytes_get_an_answer(name: str, raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(raw)
    assert lacks(path) or raw


@pytest.mark.parametrize(
    "header",
    [b"[]", b'{"a": 1}', b'{"a": {"data_offsets": []}}', b"\xff", b"[" * 5000, b'{"a": {"data_offsets": [0, "x"]}}'],
)
def test_a_header_that_is_none_is_left_to_the_reader(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "step_1.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert lacks(path) is None


def test_a_folder_lacks_shards_that_its_index_names_until_they_are_whole(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = folder / "model.safetensors.index.json"
    index.write_text("{")
    assert lacks(folder) == "model.safetensors.index.json cannot be read"
    index.write_text(json.dumps({"weight_map": dict(zip("wb", shards, strict=True))}))
    whole = FORMS["step_1.safetensors"]
    (folder / shards[0]).write_bytes(whole)
    assert lacks(folder) == f"{shards[1]} is not there yet"
    (folder / shards[1]).write_bytes(whole[:-1])
    assert lacks(folder) == f"{shards[1]}: it ends before its last tensor does"
    (folder / shards[1]).write_bytes(whole)
    assert lacks(folder) is None


def test_an_index_that_is_a_pipe_or_too_long_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("casckpt.tensors.intake.settled.MAX_INDEX", 10)
    os.mkfifo(tmp_path / "model.safetensors.index.json")
    assert lacks(tmp_path) == "model.safetensors.index.json cannot be read"
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert lacks(tmp_path) == "model.safetensors.index.json cannot be read"


def test_a_checkpoint_of_the_trainer_lacks_its_state_which_comes_last(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    for name in ("model.safetensors", "training_args.bin"):
        (folder / name).write_bytes(FORMS["step_1.safetensors" if "model" in name else "step_1.pt"])
    assert lacks(folder) == "trainer_state.json is not there yet"
    (folder / "trainer_state.json").write_text("{}")
    assert lacks(folder) is None
    assert lacks(folder.rename(tmp_path / "final")) is None
    (tmp_path / "final" / "trainer_state.json").unlink()
    assert lacks(tmp_path / "final") is None
