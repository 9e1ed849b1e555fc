"""One gate for the names of branches and tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.errors import InvalidRefNameError
from casckpt.limits import MAX_REF_NAME
from casckpt.objects.names import check_ref_name, check_stored_ref_name


@pytest.mark.parametrize("name", ["main", "try/lr-3e-4", "v1.0", "é", "a_b", "1", "Head", "x" * MAX_REF_NAME])
def test_a_good_name_passes(name: str) -> None:
    assert check_ref_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "HEAD", "a b", "a\tb", "a\x00", "\x7f", "\u0085", "\u200b", "\ud800", "x" * (MAX_REF_NAME + 1)),
        *("é" * (MAX_REF_NAME // 2 + 1), "main~1", "a^", "a:b", "a@b", "a{0}", "a\\b", "*", "a?", "[a]"),
        *("-a", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.b", ".a", "a.", "a/b./c", "a/."),
    ],
)
def test_a_bad_name_is_refused_and_shown(name: str) -> None:
    with pytest.raises(InvalidRefNameError, match="cannot be a branch or tag") as caught:
        check_ref_name(name)
    assert caught.value.ref == name
    assert repr(name) in str(caught.value)
    with pytest.raises(InvalidRefNameError, match="cannot be a branch or tag"):
        check_stored_ref_name(name)


@given(st.text(max_size=12))
def test_no_good_name_is_a_path_out_of_its_folder_or_a_revision(name: str) -> None:
    try:
        check_ref_name(name)
    except InvalidRefNameError:
        return
    assert not set(name) & set("~^:@{}\\*?[] \n\0")
    assert all(part not in ("", ".", "..") for part in name.split("/"))


def test_a_character_of_a_later_unicode_is_read_and_not_given() -> None:
    name = "try/" + chr(0x0378)  # unassigned in all of them so far
    assert check_stored_ref_name(name) == name
    with pytest.raises(InvalidRefNameError, match="unprintable"):
        check_ref_name(name)
