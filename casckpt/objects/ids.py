"""Object ids: the hash of an object's canonical bytes, seeded by its kind, so that a chunk cannot pass for a commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import xxhash

from casckpt.errors import StoreSettingsError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Kind(IntEnum):
    """What an object is. The value is part of the format: it seeds the id and stands in the frame."""

    CHUNK = 1
    NODE = 2
    TREE = 3
    COMMIT = 4


@dataclass(frozen=True, slots=True)
class IdScheme:
    """How a store names its objects: `digest(kind, data)` is `size` bytes long."""

    name: str
    size: int
    digest: Callable[[Kind, Buffer], bytes]


def _xxh3_128(kind: Kind, data: Buffer) -> bytes:
    return xxhash.xxh3_128_digest(data, seed=kind)


def _blake3_scheme() -> IdScheme:
    try:
        from blake3 import blake3  # an extra: only stores that ask for it need it
    except ImportError as error:
        raise StoreSettingsError(
            "this store names its objects by blake3, which is not installed", remedy="pip install 'casckpt[blake3]'"
        ) from error
    contexts = {kind: f"casckpt 1 {kind.name.lower()}" for kind in Kind}

    def digest(kind: Kind, data: Buffer) -> bytes:
        return bytes(blake3(data, derive_key_context=contexts[kind]).digest())

    return IdScheme("blake3", 32, digest)


XXH3_128 = IdScheme("xxh3_128", 16, _xxh3_128)
SCHEMES = ("xxh3_128", "blake3")


def id_scheme(name: str) -> IdScheme:
    """The scheme of that name.

    Raises:
        StoreSettingsError: the name is unknown, or its library is not installed.
    """
    if name == "xxh3_128":
        return XXH3_128
    if name == "blake3":
        return _blake3_scheme()
    raise StoreSettingsError(f"unknown hash {name!r}", remedy=f"use one of {', '.join(SCHEMES)}")
