"""Ids, frames and msgpack: the parts of the page that know nothing of what an object is for."""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import blake3
import msgpack
import xxhash

from tests.compat.reader import codecs
from tests.compat.reader.errors import NewerError, need

KINDS = {"chunk": 1, "node": 2, "tree": 3, "commit": 4}
ID_BYTES = {"xxh3_128": 16, "blake3": 32}
HEAD = struct.Struct("<4sBBBBBBBBIII")


def object_id(hash: str, kind: str, raw: bytes) -> bytes:
    if hash == "xxh3_128":
        return xxhash.xxh3_128(raw, seed=KINDS[kind]).digest()
    return blake3.blake3(raw, derive_key_context=f"casckpt 1 {kind}").digest()


@dataclass
class Frame:
    """A frame, its head checked."""

    id: bytes
    base: bytes | None
    codec: int
    word: int
    raw_length: int
    parts: list[int]
    payload: bytes


def open_frame(kind: str, frame: bytes) -> Frame:
    need(len(frame) >= HEAD.size, "a frame shorter than its head")
    magic, version, of_kind, codec, n, word, count, has_base, zero, raw_length, length, check = HEAD.unpack_from(frame)
    need(magic == b"\xf1CKF", "no frame")
    if version != 1:
        raise NewerError(f"a frame of version {version}")
    need(of_kind == KINDS[kind], "a frame of another kind")
    need(n in (16, 32) and word in (0, 1, 2, 4, 8, 16) and count <= 16 and has_base <= 1 and zero == 0, "no head")
    start = HEAD.size + n * (1 + has_base) + 4 * count
    need(len(frame) == start + length, "a frame that does not end where its payload ends")
    need(raw_length <= (2**26 if kind == "chunk" else 2**31), "an object that is too long")
    need(kind != "chunk" or raw_length >= 1, "a chunk of no bytes")
    head = frame[:20] + bytes(4) + frame[24:start]
    need(xxhash.xxh32(head, seed=0).intdigest() == check, "a head whose checksum fails")
    ids = frame[HEAD.size : HEAD.size + n * (1 + has_base)]
    parts = list(struct.unpack(f"<{count}I", frame[start - 4 * count : start]))
    if kind != "chunk" and codec > 1:
        raise NewerError(f"a {kind} of codec {codec}")
    codecs.check_head(codec, word, raw_length, length, parts, bool(has_base))
    return Frame(ids[:n], ids[n:] if has_base else None, codec, word, raw_length, parts, frame[start:])


def read_frame(kind: str, frame: bytes, base: Callable[[bytes], bytes] | None = None) -> tuple[bytes, bytes]:
    """The id that a frame claims, and the bytes in it. base: reads the chunk that it is based on."""
    held = open_frame(kind, frame)
    before = None
    if held.base is not None:
        need(base is not None, "a delta where none can be")
        before = base(held.base)
    raw = codecs.decode(held.codec, held.word, held.raw_length, held.payload, held.parts, before)
    need(len(raw) == held.raw_length, "a payload of another length")
    return held.id, raw


def unpack(raw: bytes) -> Any:
    """msgpack, in the one form that is allowed."""
    item = msgpack.unpackb(raw, use_list=True, strict_map_key=False)
    need(msgpack.packb(item) == raw, "msgpack that is not in its shortest form")
    return item


def checked_ref(ref: str) -> str:
    kind, _, name = ref.partition("/")
    need(kind in ("branch", "tag"), "neither a branch nor a tag")
    checked_name(name)
    return ref


def checked_name(name: str) -> str:
    need(1 <= len(name.encode()) <= 200 and name != "HEAD", "no name")
    need(not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs") for char in name), "a blank")
    need(not set(name) & set("~^:@{}\\*?[]") and not name.startswith("-"), f"no name: {name}")
    need(all(part and part[0] != "." and part[-1] != "." for part in name.split("/")), f"no name: {name}")
    return name
