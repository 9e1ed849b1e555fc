"""Targets: checkpoints of other formats that are taken in, and the indexes beside them."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch

from casckpt.errors import CasckptError
from casckpt.tensors.formats import read_state
from casckpt.tensors.formats.write import write_state
from casckpt.tensors.shards import read_index
from tests.trials.hostile.target import Target, joined, taken_apart


@cache
def _written() -> dict[str, tuple[bytes, ...]]:
    """Files of each format, as casckpt and as others write them."""
    tied = torch.arange(6.0)
    state: dict[str, Any] = {
        "model": {"a": tied, "b": tied[1:], "c": torch.ones(2).bfloat16()},
        "lr": 0.1,
        "x": (1, "y"),
    }
    plain: dict[str, Any] = {"model": {"a": torch.arange(6.0)}, "lr": [0.1, np.arange(3.0)]}
    flat: dict[str, Any] = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(3)}
    made: dict[str, tuple[bytes, ...]] = {}
    with TemporaryDirectory() as folder:
        for format, suffix in (("safetensors", ".safetensors"), ("npz", ".npz"), ("torch", ".pt")):
            found = []
            for number, one in enumerate((plain if format == "npz" else state, flat)):
                path = Path(folder) / f"{number}{suffix}"
                write_state(one, path, format, overwrite=True)
                found.append(path.read_bytes())
            made[format] = tuple(found)
        np.savez_compressed(Path(folder) / "c.npz", a=np.arange(40), b=np.zeros((2, 3), "S3"))
        made["npz"] += ((Path(folder) / "c.npz").read_bytes(),)
        whole = {
            "w": tied,
            "n": np.arange(3.0),
            "s": {1, 2},
            "d": {"nested": [None, (True, 2.5)]},
            "e": np.float64(2.0),
        }
        for legacy in (False, True):
            path = Path(folder) / "theirs.pt"
            torch.save(whole, path, _use_new_zipfile_serialization=not legacy)
            made["legacy" if legacy else "torch"] = (
                (*made.get("torch", ()), path.read_bytes()) if not legacy else (path.read_bytes(),)
            )
    return made


def _read(suffix: str) -> Callable[[bytes], object]:
    path = Path(f"file{suffix}")

    def parse(data: bytes) -> object:
        path.unlink(missing_ok=True)  # what was read before may lie in a map of it
        path.write_bytes(data)
        return read_state(path)

    return parse


# -- safetensors: the header by itself ---------------------------------------------------------------------------------


def _headers() -> list[bytes]:
    made = []
    for raw in _written()["safetensors"]:
        length = int.from_bytes(raw[:8], "little")
        made.append(joined([raw[8 : 8 + length], raw[8 + length :]]))
    return made


def _with_header(data: bytes) -> object:
    """A file of a header and bytes; its length is right."""
    header, tail = [*taken_apart(data), b"", b""][:2]
    return _read(".safetensors")(struct.pack("<Q", len(header)) + header + tail)


_JSON: Final = (
    *(
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"-1",
        b"9" * 20,
        b"1e400",
        b"null",
        b'"F32"',
        b'"U8"',
        b'"F4"',
        b'"BOOL"',
    ),
    *(
        b'"data_offsets":',
        b'"shape":[',
        b'"dtype":',
        b'"__metadata__":{',
        b"18446744073709551615",
        b"\\ud800",
        b"[" * 50,
    ),
)


# -- zip files: members, with their checksums right --------------------------------------------------------------------


def _members(format: str) -> list[bytes]:
    """Each member as a part: its name, a zero, its bytes."""
    found = []
    for raw in _written()[format]:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            found.append(joined([name.encode() + b"\0" + archive.read(name) for name in archive.namelist()]))
    return found


def _zipped(data: bytes) -> bytes:
    """A zip file of members without compression, by hand: zipfile would refuse some of the names."""
    body, directory = bytearray(), bytearray()
    count = 0
    for part in taken_apart(data):
        name, _, raw = part.partition(b"\0")
        name = name[:60000]
        fields = struct.pack("<HHHHHIII", 20, 0x800, 0, 0, 33, zlib.crc32(raw), len(raw), len(raw))
        directory += (
            b"PK\1\2"
            + struct.pack("<H", 20)
            + fields
            + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, len(body))
            + name
        )
        padding = -(len(body) + 34 + len(name)) % 64  # as torch does, so that tensors lie where they may
        body += (
            b"PK\3\4" + fields + struct.pack("<HH", len(name), 4 + padding) + name + struct.pack("<HH", 0x4246, padding)
        )
        body += bytes(padding) + raw
        count += 1
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory + end)


def _read_zipped(suffix: str) -> Callable[[bytes], object]:
    parse = _read(suffix)
    return lambda data: parse(_zipped(data))


def _npy_heads() -> list[bytes]:
    heads = [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': [('a', '<i4'), ('b', '|u1', (2,))], 'fortran_order': True, 'shape': (2, 1), }",
    ]
    return [head.encode() for head in heads]


def _with_npy_head(data: bytes) -> None:
    """An array whose description is the input, in each version of the format, its length right."""
    for version in (1, 2, 3):
        length = struct.pack("<H" if version == 1 else "<I", len(data) & 0xFFFF)
        raw = b"\x93NUMPY" + bytes((version, 0)) + length + data[:0xFFFF] + bytes(24)
        with suppress(CasckptError):
            _read_zipped(".npz")(joined([b"a.npy\0" + raw]))


_PYTHON: Final = (
    *(
        b"(",
        b")",
        b"[",
        b"]",
        b"'",
        b",",
        b"-1",
        b"9" * 30,
        b"1e999",
        b"'|O'",
        b"'<f8'",
        b"'V0'",
        b"'<M8[s]'",
        b"lambda:0",
    ),
    *(
        b"__import__('os')",
        b"((((",
        b"'a'*9",
        b"None",
        b"True",
        b"'descr':",
        b"'shape':",
        b"f''",
        b"1<<99",
        b"not ",
        b"-" * 50,
    ),
)
# Opcodes of pickle: calls, globals, memo, containers, and numbers of every width.
_OPCODES: Final = (
    *(bytes((code,)) for code in (*b"(.0123FIJKLMNRSTVXabcdeghijlopqrstu})]Q", *range(0x80, 0x96))),
    *(b"cbuiltins\neval\n", b"cos\nsystem\n", b"cnumpy\ndtype\n", b"cbuiltins\nbytes\n", b"ctorch\nload\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"X\x03\0\0\0abc", pickle.dumps(1 << 70, 2)[2:-1], b"((((", b"]" * 40),
)


# -- indexes -----------------------------------------------------------------------------------------------------------


def _indexes() -> list[bytes]:
    places = {"w": "model-00001-of-00002.safetensors", "v": "model-00002-of-00002.safetensors"}
    return [json.dumps({"metadata": {"total_size": 8}, "weight_map": places}).encode(), b'{"weight_map": {"w": "a"}}']


def _index(data: bytes) -> None:
    path = Path("model.safetensors.index.json")
    path.write_bytes(data)
    read_index(path)
    read_state(path)


_NAMES: Final = (
    b'"',
    b"{",
    b"}",
    b"..",
    b"/",
    b"\\u0000",
    b"\\ud800",
    b"[",
    b":",
    b",",
    b'"../x"',
    b'"/etc/passwd"',
    b"null",
)


TARGETS: Final[Sequence[Target]] = (
    Target("safetensors", lambda: _written()["safetensors"], _read(".safetensors"), files=True),
    Target("safetensors-header", _headers, _with_header, tokens=_JSON, parts=True, files=True),
    Target("npz", lambda: _written()["npz"], _read(".npz"), files=True),
    Target("npz-members", lambda: _members("npz"), _read_zipped(".npz"), parts=True, files=True),
    Target("npy-head", _npy_heads, _with_npy_head, tokens=_PYTHON, files=True),
    Target("torch", lambda: _written()["torch"], _read(".pt"), files=True),
    Target("torch-members", lambda: _members("torch"), _read_zipped(".pt"), tokens=_OPCODES, parts=True, files=True),
    Target("torch-legacy", lambda: _written()["legacy"], _read(".pt"), tokens=_OPCODES, files=True),
    Target("index", _indexes, _index, tokens=_NAMES, files=True),
)
