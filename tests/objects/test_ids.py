"""Ids: the kind of an object is part of its id, and both hashes are what they say."""

from __future__ import annotations

import sys

import pytest
import xxhash
from blake3 import blake3

from casckpt.errors import StoreSettingsError
from casckpt.objects.ids import SCHEMES, Kind, id_scheme


@pytest.mark.parametrize("name", SCHEMES)
def test_the_same_bytes_have_another_id_as_each_kind_of_object(name: str) -> None:
    scheme = id_scheme(name)
    ids = {scheme.digest(kind, b"the same bytes") for kind in Kind}
    assert len(ids) == len(Kind)
    assert {len(oid) for oid in ids} == {scheme.size}


@pytest.mark.parametrize("name", SCHEMES)
def test_ids_do_not_depend_on_where_the_bytes_lie(name: str) -> None:
    digest = id_scheme(name).digest
    assert (
        digest(Kind.CHUNK, b"abc")
        == digest(Kind.CHUNK, memoryview(b"xabcx")[1:4])
        == digest(Kind.CHUNK, bytearray(b"abc"))
    )


def test_ids_never_change_from_release_to_release() -> None:
    assert id_scheme("xxh3_128").digest(Kind.CHUNK, b"") == xxhash.xxh3_128_digest(b"", seed=1)
    assert id_scheme("xxh3_128").digest(Kind.TREE, b"casckpt").hex() == xxhash.xxh3_128_hexdigest(b"casckpt", seed=3)
    assert (
        id_scheme("blake3").digest(Kind.NODE, b"casckpt")
        == blake3(b"casckpt", derive_key_context="casckpt 1 node").digest()
    )


def test_an_unknown_hash_is_refused_by_name() -> None:
    with pytest.raises(StoreSettingsError, match=r"'md5'.*xxh3_128, blake3"):
        id_scheme("md5")


def test_a_hash_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blake3", None)
    with pytest.raises(StoreSettingsError, match=r"pip install 'casckpt\[blake3\]'"):
        id_scheme("blake3")
