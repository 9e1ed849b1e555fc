"""Files that are damaged, or made to do harm: a typed error that names the file, nothing run, nothing written."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casckpt import limits
from casckpt.errors import CasckptError, ImportFormatError, NewerFormatError, UnsupportedTypeError
from casckpt.objects.node import NodeRef
from casckpt.objects.tree import canonical
from casckpt.objects.values import ArrayRecord, BlobRecord, Map, TensorRecord, Value
from casckpt.tensors.formats import folder, read_state
from casckpt.tensors.formats.write import write_state
from casckpt.tensors.repository import Repository
from casckpt.tensors.shards import read_index
from tests.equality import assert_same

relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)

STATE = {"model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).bfloat16()}, "lr": 0.1, "x": "y" * 5000}
PLAIN = {"model": {"a": torch.arange(6.0).reshape(2, 3)}, "lr": [0.1, np.arange(3.0)], "x": "y" * 5000}
FORMATS = {"safetensors": ".safetensors", "torch": ".pt", "npz": ".npz"}


def written(folder: Path, format: str) -> Path:
    path = folder / f"file{FORMATS[format]}"
    write_state(PLAIN if format == "npz" else STATE, path, format, overwrite=True)
    return path


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path: Path, format: str) -> None:
    path = written(tmp_path, format)
    raw = path.read_bytes()
    for length in {*range(0, len(raw), 97), *range(20), len(raw) - 1}:
        path.write_bytes(raw[:length])
        with pytest.raises(ImportFormatError, match="file"):
            read_state(path)


@relaxed
@pytest.mark.parametrize("format", FORMATS)
@given(seed=st.integers(0, 1 << 32))
def test_flipped_bits_are_refused_or_change_only_values(tmp_path: Path, format: str, seed: int) -> None:
    path = written(tmp_path, format)
    raw = bytearray(path.read_bytes())
    picked = random.Random(seed)
    for _ in range(picked.randint(1, 4)):
        raw[picked.randrange(len(raw))] ^= 1 << picked.randrange(8)
    path.write_bytes(raw)
    try:
        read_state(path)
    except CasckptError:
        return


@pytest.mark.parametrize("name", ["x", "x.txt", "x.pt", "x.npz", "x.safetensors", "x.index.json", "x.bin"])
@pytest.mark.parametrize("contents", [b"", b"x", b"hello world, this is no checkpoint", b"PK\x03\x04nothing", b"{}"])
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path, name: str, contents: bytes) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ImportFormatError, match=name):
        read_state(tmp_path / name)


def test_a_file_that_is_not_there_is_named_and_nothing_is_committed(tmp_path: Path, model_repo: Repository) -> None:
    with pytest.raises(ImportFormatError, match=r"none\.pt: there is no such file"):
        model_repo.import_file(tmp_path / "none.pt")
    assert not list(model_repo.log())


def test_a_file_written_to_while_it_is_read_is_not_committed(
    tmp_path: Path, model_repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "safetensors")
    commit = model_repo.commit

    def meanwhile(*given: Any, **options: Any) -> Any:
        os.utime(path, ns=(1, 1))
        return commit(*given, **options)

    monkeypatch.setattr(model_repo, "commit", meanwhile)
    with pytest.raises(ImportFormatError, match="written to while"):
        model_repo.import_file(path)
    assert not list(model_repo.log())


# -- safetensors -------------------------------------------------------------------------------------------------------


def safetensors_file(path: Path, header: object, data: bytes = b"\0" * 64, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def field(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


BAD_HEADERS: dict[str, tuple[object, int | None]] = {
    "longer than the file": ({"w": field(0, 64)}, 1 << 40),
    "longer than any": ({"w": field(0, 64)}, 1 << 63),
    "data past the end": ({"w": field(0, 128)}, None),
    "a hole": ({"w": field(0, 32), "v": field(36, 64)}, None),
    "bytes that nobody owns": ({"w": field(0, 32)}, None),
    "an overlap": ({"w": field(0, 40), "v": field(32, 64)}, None),
    "a shape that lies": ({"w": field(0, 64, [1 << 40, 1 << 40])}, None),
    "a shape that overflows": ({"w": field(0, 64, [1 << 62, 4])}, None),
    "a negative offset": ({"w": field(-64, 0)}, None),
    "an unknown dtype": ({"w": field(0, 64, dtype="F128")}, None),
    "a name twice": (b'{"w":%b,"w":%b}' % ((json.dumps(field(0, 64)).encode(),) * 2), None),
    "metadata twice": (
        b'{"__metadata__":{"a":"1"},"__metadata__":{"a":"2"},"w":%b}' % json.dumps(field(0, 64)).encode(),
        None,
    ),
    "no object": ([1], None),
    "no offsets": ({"w": {"dtype": "F32", "shape": [16]}}, None),
    "very deep": (b'{"w":' + b"[" * 100_000, None),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "w": field(0, 64)}, None),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    header, length = BAD_HEADERS[name]
    with pytest.raises(ImportFormatError, match=r"w\.safetensors"):
        read_state(safetensors_file(tmp_path / "w.safetensors", header, length=length))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32-le", "utf-8-sig"])
def test_an_index_of_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    """Of bytes json would guess the encoding, and have Python load the code for whatever a file looks like."""
    safetensors_file(tmp_path / "w.safetensors", {"w": field(0, 64)})
    index = tmp_path / "model.safetensors.index.json"
    text = json.dumps({"metadata": {}, "weight_map": {"w": "w.safetensors"}})
    index.write_bytes(text.encode())
    assert read_index(index) == ({}, {"w": "w.safetensors"})
    index.write_bytes(text.encode(encoding))
    with pytest.raises(ImportFormatError, match=r"index\.json"):
        read_index(index)


def with_entry(path: Path, entry: bytes, names: tuple[str, ...] = ("w",)) -> Path:
    size = 64 // len(names)
    fields = {name: field(index * size, index * size + size) for index, name in enumerate(names)}
    return safetensors_file(path, {"__metadata__": {"casckpt": base64.b64encode(entry).decode()}, **fields})


def entry(value: Value, names: list[str] | None = None, version: int = 1) -> bytes:
    return canonical([version, list(names if names is not None else ["w"]), canonical(value)])


def record(**changes: Any) -> TensorRecord:
    fields: dict[str, Any] = {
        "dtype": "float32",
        "shape": (16,),
        "stride": None,
        "offset": 0,
        "storage": NodeRef(bytes(8), 64),
        "alias": None,
        "flags": 0,
    }
    return TensorRecord(**(fields | changes))


LATER = NodeRef((1).to_bytes(8, "big"), 64)
BAD_ENTRIES: dict[str, bytes] = {
    "nothing": b"",
    "no msgpack": b"\xff\xff",
    "another shape of it": canonical([1, ["w"]]),
    "names that are none": canonical([1, [1], canonical(record())]),
    "a tensor that is not there": entry(record(), ["v"]),
    "too few names": entry(record(), []),
    "too many names": entry(record(), ["w", "w"]),
    "another shape": entry(record(shape=(4, 4))),
    "fewer elements": entry(record(shape=(8,))),
    "another dtype": entry(record(dtype="int32")),
    "a span that is longer": entry(record(storage=NodeRef(bytes(8), 1 << 40))),
    "a span of two lengths": entry([record(), record(storage=NodeRef(bytes(8), 128))], ["w", "w"]),
    "an alias over two spans": entry([record(alias=0), record(alias=0, storage=LATER)], ["w", "w"]),
    "an array over a tensor": entry(
        [record(), ArrayRecord("<f4", (16,), False, False, NodeRef(bytes(8), 64))], ["w", "w"]
    ),
    "bytes in the entry": entry(record(storage=b"\0" * 64)),
    "a dtype of objects": entry(ArrayRecord("|O", (8,), False, False, NodeRef(bytes(8), 64))),
    "an array of another size": entry(ArrayRecord("<f8", (16,), False, False, NodeRef(bytes(8), 64))),
    "a text that is none": entry(BlobRecord(True, NodeRef(bytes(8), 60))),
    "a reference to a tree": canonical([1, [], b"\x92\x08\xc4\x08" + bytes(8)]),
    "equal keys": canonical([1, [], canonical(Map((("a", 1), ("a", 2))))]),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_an_entry_that_does_not_fit_its_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImportFormatError, match=r"w\.safetensors: what casckpt wrote into it is damaged"):
        read_state(with_entry(tmp_path / "w.safetensors", BAD_ENTRIES[name]))


def test_an_entry_whose_elements_lie_over_each_other_is_refused(tmp_path: Path) -> None:
    spoilt = entry(record(shape=(4, 4), stride=(1, 1), storage=NodeRef(bytes(8), 28)))
    metadata = {"casckpt": base64.b64encode(spoilt).decode()}
    path = safetensors_file(tmp_path / "w.safetensors", {"__metadata__": metadata, "w": field(0, 64, [4, 4])})
    with pytest.raises(ImportFormatError, match=r"w\.safetensors: .*overlap"):
        read_state(path)


def test_the_entry_that_these_are_spoilt_from_is_read(tmp_path: Path) -> None:
    path = with_entry(tmp_path / "w.safetensors", entry(record()))
    assert_same(read_state(path).state, torch.zeros(16))


def test_an_entry_of_a_later_casckpt_says_so(tmp_path: Path) -> None:
    with pytest.raises(NewerFormatError, match="later casckpt"):
        read_state(with_entry(tmp_path / "w.safetensors", entry(record(), version=2)))


@relaxed
@given(seed=st.integers(0, 1 << 32))
def test_an_entry_spoilt_anyhow_is_a_typed_error_or_a_state(tmp_path: Path, seed: int) -> None:
    value: Value = Map(
        (("a", [record(alias=0), record(alias=0, shape=(4, 2), stride=(4, 1), offset=1)]), ("t", (1, "x")))
    )
    raw = bytearray(canonical([1, ["w", "v"], canonical(value)]))
    picked = random.Random(seed)
    for _ in range(picked.randint(1, 3)):
        raw[picked.randrange(len(raw))] = picked.randrange(256)
    try:
        read_state(with_entry(tmp_path / "w.safetensors", bytes(raw), ("w", "v")))
    except CasckptError:
        return


# -- torch -------------------------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self._reduced = (call, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


class Dressed:
    """Pickles as whatever it is told: a function by its name, its arguments, and a state for BUILD."""

    def __init__(self, *reduced: Any) -> None:
        self._reduced = reduced

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", [os.system, eval, exec, os.mkdir])
def test_a_pickle_that_runs_code_is_refused_and_runs_none(
    tmp_path: Path, call: Callable[..., object], legacy: bool
) -> None:
    target = tmp_path / "ran"
    word = str(target) if call is os.mkdir else f"__import__('os').mkdir({str(target)!r})"
    if call is os.system:
        word = f"mkdir {target}"
    torch.save(
        {"w": torch.ones(1), "x": Bomb(call, word)}, tmp_path / "b.pt", _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(ImportFormatError, match=r"b\.pt: torch cannot read it with weights_only"):
        read_state(tmp_path / "b.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(call, word), 2))
    with pytest.raises(ImportFormatError, match=r"raw\.pt"):
        read_state(tmp_path / "raw.pt")
    assert not target.exists()


MULTIARRAY = np._core.multiarray
BAD_ARRAYS: dict[str, Any] = {
    "objects": np.array([1, "a"], dtype=object),
    "an object": np.array(None, dtype=object),
    "objects in fields": np.zeros(2, [("a", object)]),
    "more elements than bytes": Dressed(
        MULTIARRAY._reconstruct, (np.ndarray, (0,), b"b"), (1, (1 << 40,), np.dtype("f8"), False, b"\0" * 8)
    ),
    "a negative shape": Dressed(
        MULTIARRAY._reconstruct, (np.ndarray, (0,), b"b"), (1, (-1,), np.dtype("f8"), False, b"\0" * 8)
    ),
    "no contents": Dressed(MULTIARRAY._reconstruct, (np.ndarray, (0,), b"b")),
    "memory that was never written": Dressed(np.ndarray, ((1000,), np.dtype("f8"))),
    "a dtype with fields": Dressed(np.dtype, ("V8",), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 63)),
    "a scalar of objects": Dressed(MULTIARRAY.scalar, (np.dtype("O"), b"x")),
    "a scalar of many": Dressed(MULTIARRAY.scalar, (np.dtype("f8"), b"\0" * 16)),
    "many bytes of nothing": Dressed(bytes, (1 << 40,)),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_a_numpy_pickle_that_is_no_plain_array_is_refused(tmp_path: Path, name: str) -> None:
    torch.save({"w": torch.ones(1), "x": [BAD_ARRAYS[name]]}, tmp_path / "b.pt")
    with pytest.raises(ImportFormatError, match=r"b\.pt"):
        read_state(tmp_path / "b.pt")


def test_containers_that_hold_each_other_over_and_over_are_refused(tmp_path: Path) -> None:
    laughs: list[Any] = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    torch.save({"x": laughs}, tmp_path / "b.pt")
    with pytest.raises(ImportFormatError, match="over and over"):
        read_state(tmp_path / "b.pt")
    loop: list[Any] = []
    loop.append(loop)
    torch.save({"x": loop}, tmp_path / "b.pt")
    with pytest.raises(ImportFormatError, match="contains itself"):
        read_state(tmp_path / "b.pt")


def rezipped(path: Path, change: Callable[[zipfile.ZipFile, str, bytes], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in found.items():
            change(archive, name, raw)


def test_a_torch_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "b.pt")
    rezipped(tmp_path / "b.pt", lambda archive, name, raw: archive.writestr(name, raw, zipfile.ZIP_DEFLATED))
    with pytest.raises(ImportFormatError, match="compressed"):
        read_state(tmp_path / "b.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_file_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    def twice(archive: zipfile.ZipFile, name: str, raw: bytes) -> None:
        archive.writestr(name, raw)
        archive.writestr(name, raw)

    for format in ("torch", "npz"):
        path = written(tmp_path, format)
        rezipped(path, twice)
        with pytest.raises(ImportFormatError, match="twice"):
            read_state(path)


def test_a_storage_that_says_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "b.pt")

    def cut(archive: zipfile.ZipFile, name: str, raw: bytes) -> None:
        archive.writestr(name, raw[:8] if "/data/" in name else raw)

    rezipped(tmp_path / "b.pt", cut)
    with pytest.raises(ImportFormatError, match=r"b\.pt"):
        read_state(tmp_path / "b.pt")


def test_storages_that_are_the_same_bytes_over_and_over_are_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(300) for _ in range(20)], tmp_path / "b.pt")

    def lie(archive: zipfile.ZipFile, name: str, raw: bytes) -> None:
        if name.endswith("data.pkl"):
            raw = raw.replace(struct.pack("<H", 300), struct.pack("<H", 400))
        archive.writestr(name, raw)

    rezipped(tmp_path / "b.pt", lie)
    with pytest.raises(ImportFormatError, match="bytes, of which the file has"):
        read_state(tmp_path / "b.pt")


# -- npz ---------------------------------------------------------------------------------------------------------------


def npz(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    return path


def npy(descr: object, shape: tuple[int, ...], raw: bytes) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": descr, "fortran_order": False, "shape": shape})
    return head.getvalue() + raw


BAD_NPYS: dict[str, bytes] = {
    "nothing": b"",
    "no magic": b"hello",
    "objects": npy("|O", (1,), pickle.dumps([Bomb(os.mkdir, "ran")])),
    "pointers": npy("|O", (1,), b"\x01" * 8),
    "pointers in fields": npy([("a", "|O")], (1,), b"\x01" * 8),
    "fewer bytes": npy("<f8", (2,), b"\0" * 8),
    "more bytes": npy("<f8", (2,), b"\0" * 24),
    "a huge shape": npy("<f8", (1 << 40, 1 << 40), b"\0" * 8),
    "a later version": b"\x93NUMPY\x09\x00" + b"\0" * 16,
    "code for a head": b"\x93NUMPY\x03\x00" + struct.pack("<I", 20) + b"__import__('os').x  ",
    "a negative shape": b"\x93NUMPY\x03\x00"
    + struct.pack("<I", 60)
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }  \n",
}


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", BAD_NPYS)
def test_an_array_that_lies_is_refused(tmp_path: Path, name: str, how: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportFormatError, match=r"a\.npz"):
        read_state(npz(tmp_path / "a.npz", {"w.npy": BAD_NPYS[name]}, how))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_with_a_flipped_bit_is_refused_as_numpy_refuses_it(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "a.npz"
    save(path, w=np.arange(1000.0))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Exception, match=r"CRC|decompressing"), np.load(path) as theirs:
        theirs["w"]
    with pytest.raises(ImportFormatError, match=r"a\.npz"):
        read_state(path)


def test_an_npz_that_unpacks_to_much_more_than_it_is_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(4 << 20))
    with pytest.raises(ImportFormatError, match="times its size"):
        read_state(tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", w=np.zeros(1000))
    assert read_state(tmp_path / "b.npz").state["w"].shape == (1000,)


# -- folders and indexes -----------------------------------------------------------------------------------------------


def sharded(folder: Path, places: dict[str, Any]) -> Path:
    safetensors_file(folder / "model-00001-of-00001.safetensors", {"w": field(0, 64)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder / "model.safetensors.index.json"


@pytest.mark.parametrize(
    "shard",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        "sub/model.safetensors",
        "",
        "a\0b",
        "\ud800",
        3,
        None,
        "C:\\x",
        "none.bin",
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_an_index_that_leads_outside_its_folder_is_refused(tmp_path: Path, shard: object, whole: bool) -> None:
    index = sharded(tmp_path, {"w": "model-00001-of-00001.safetensors", "v": shard})
    with pytest.raises(ImportFormatError, match=r"index\.json"):
        read_state(tmp_path if whole else index)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {"w": "a", "w": "b"}}',
        '{"weight_map": {}}',
        "[" * 100_000,
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    index = sharded(tmp_path, {"w": "model-00001-of-00001.safetensors"})
    index.write_text(text)
    with pytest.raises(ImportFormatError, match=r"index\.json"):
        read_state(index)


def test_an_index_and_its_shards_must_tell_the_same(tmp_path: Path) -> None:
    shard = "model-00001-of-00001.safetensors"
    assert_same(read_state(sharded(tmp_path, {"w": shard})).state, {"w": torch.zeros(16)})
    with pytest.raises(ImportFormatError, match="'v' is in no shard"):
        read_state(sharded(tmp_path, {"w": shard, "v": shard}))
    with pytest.raises(ImportFormatError, match="does not say that 'w'"):
        read_state(sharded(tmp_path, {"v": shard}))


def test_a_tensor_that_stands_in_two_shards_is_refused(tmp_path: Path) -> None:
    for shard in ("a.bin", "b.bin"):
        torch.save({"w": torch.ones(2), shard: torch.ones(1)}, tmp_path / shard)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.bin", "a.bin": "a.bin", "b.bin": "b.bin"}}))
    with pytest.raises(ImportFormatError, match="'w' is in two shards"):
        read_state(index)


def test_files_beside_weights_are_bounded_and_must_be_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors_file(tmp_path / "model.safetensors", {"w": field(0, 64)})
    (tmp_path / "config.json").write_bytes(b"x" * 100)
    os.mkfifo(tmp_path / "pipe")  # not read, and nobody waits for it
    assert set(read_state(tmp_path).state["files"]) == {"config.json"}
    monkeypatch.setattr(folder, "MAX_SIDE_FILE", 99)
    with pytest.raises(ImportFormatError, match=r"config\.json"):
        read_state(tmp_path)
    monkeypatch.setattr(folder, "MAX_SIDE_FILE", limits.MAX_SIDE_FILE)
    (tmp_path / "b.json").write_bytes(b"x" * 50)
    monkeypatch.setattr(folder, "MAX_SIDE_FILES", 149)
    with pytest.raises(ImportFormatError, match=r"config\.json"):
        read_state(tmp_path)


def test_a_type_that_is_not_registered_here_is_named(tmp_path: Path) -> None:
    from casckpt.objects.values import Typed

    with pytest.raises(UnsupportedTypeError, match="Nobody"):
        read_state(with_entry(tmp_path / "w.safetensors", entry(Map((("a", Typed("user:Nobody", 1)),)), [])))
