"""A safetensors file's own metadata, kept in the commit that it became and written again when that is exported."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Final

from casckpt.limits import MAX_COMMIT_META, MAX_SAFETENSORS_HEADER
from casckpt.tensors.formats.safetensors_file import Contents, own_metadata

KEY: Final = "file_metadata"
# Some tools write their whole training log there: what is longer is kept as zlib of its JSON.
_PLAIN: Final = MAX_COMMIT_META // 4


def kept_metadata(contents: Contents) -> dict[str, object]:
    """What a commit's meta says of a file's own metadata; empty where it has none."""
    own = own_metadata(contents)
    if not own:
        return {}
    text = json.dumps(own).encode()
    return {KEY: own if len(text) <= _PLAIN else zlib.compress(text, 9)}


def metadata_of(meta: Mapping[str, object]) -> dict[str, str]:
    """The inverse, from whatever a commit's meta holds: what is no such metadata is none."""
    found = meta.get(KEY)
    if isinstance(found, bytes):
        try:
            found = json.loads(zlib.decompressobj().decompress(found, MAX_SAFETENSORS_HEADER).decode())
        except (zlib.error, ValueError, RecursionError):
            return {}
    if not isinstance(found, dict):
        return {}
    return {key: text for key, text in found.items() if isinstance(key, str) and isinstance(text, str)}
