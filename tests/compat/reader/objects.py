"""Ids, frames and msgpack: the parts of the page that know nothing of what an object is for."""

from __future__ import annotations

import struct
import unicodedata
from typing import Any

import blake3
import msgpack
import xxhash
import zstandard


class FormatError(Exception):
    """The store is not as the page says."""


class NewerError(FormatError):
    """The store holds what this reader does not know."""


def need(holds: bool, problem: str) -> None:
    if not holds:
        raise FormatError(problem)


KINDS = {"chunk": 1, "node": 2, "tree": 3, "commit": 4}
ID_BYTES = {"xxh3_128": 16, "blake3": 32}
HEAD = struct.Struct("<4sBBBBBBBBIII")


def object_id(hash: str, kind: str, raw: bytes) -> bytes:
    if hash == "xxh3_128":
        return xxhash.xxh3_128(raw, seed=KINDS[kind]).digest()
    return blake3.blake3(raw, derive_key_context=f"casckpt 1 {kind}").digest()


def read_frame(kind: str, frame: bytes) -> tuple[bytes, bytes]:
    """The id that a frame claims, and the bytes in it."""
    need(len(frame) >= HEAD.size, "a frame shorter than its head")
    magic, version, of_kind, codec, n, word, planes, has_base, zero, raw_length, length, check = HEAD.unpack_from(frame)
    need(magic == b"\xf1CKF", "no frame")
    if version != 1 or codec > 1:
        raise NewerError(f"a frame of version {version} with codec {codec}")
    need(of_kind == KINDS[kind], "a frame of another kind")
    need(n in (16, 32) and word == 0 and planes == 0 and has_base == 0 and zero == 0, "impossible values in a head")
    start = HEAD.size + n
    need(len(frame) == start + length, "a frame that does not end where its payload ends")
    need(raw_length <= 2**31, "an object that is too long")
    head = frame[:20] + bytes(4) + frame[24:start]
    need(xxhash.xxh32(head, seed=0).intdigest() == check, "a head whose checksum fails")
    payload = frame[start:]
    if codec == 1:
        need(zstandard.frame_content_size(payload) == raw_length, "a zstd frame of another size")
        payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=raw_length, allow_extra_data=False)
    need(len(payload) == raw_length, "a payload of another length")
    return frame[HEAD.size : start], payload


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
