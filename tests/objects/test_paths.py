"""Paths and globs: one spelling for each place in a state, and a choice of places that fetches no more than it must."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.errors import CorruptObjectError
from casckpt.objects.node import NodeRef
from casckpt.objects.paths import Globs, child, children, escape, find, leaves, select, unescape
from casckpt.objects.tree import decode_tree, expand, write_tree
from casckpt.objects.values import METADATA, Map, TensorRecord, TreeRef, Typed, Value


def _weight(size: int) -> TensorRecord:
    return TensorRecord("float32", (size,), None, 0, NodeRef(bytes(16), 4 * size), None, 0)


LAYERS = Map(tuple((f"{i}.weight", _weight(i + 1)) for i in range(200)))
STATE = Map(
    (
        ("model", Typed("ordered_dict", Map(((METADATA, Map((("v", 1),))), *LAYERS.entries)))),
        (
            "optimizer",
            Map((("state", Map(((0, Map((("step", 3.0),))), (1, Map(()))))), ("groups", [Map((("lr", 0.1),)), 2]))),
        ),
        ("config", Typed("user:Config", Map((("lr", 0.1), ("seed", 1))))),
        ("pair", (1, 2)),
        ("a.b", "dotted"),
    )
)


class Trees:
    """A store of trees that counts what is fetched."""

    def __init__(self, value: Value) -> None:
        self.trees: dict[bytes, bytes] = {}
        self.fetched: list[bytes] = []
        self.root = TreeRef(write_tree(value, (), self._emit))

    def _emit(self, raw: bytes) -> bytes:
        oid = len(self.trees).to_bytes(16, "big")
        self.trees[oid] = raw
        return oid

    def fetch(self, oid: bytes) -> Value:
        self.fetched.append(oid)
        return decode_tree(self.trees[oid], 16)

    def select(self, *patterns: str) -> Value:
        return expand(select(self.root, Globs(patterns), self.fetch), self.fetch)


@given(st.lists(st.text("a.\\*", max_size=4), max_size=4), st.lists(st.text("a.\\*", max_size=4), max_size=4))
def test_different_keys_never_have_the_same_path(first: list[str], second: list[str]) -> None:
    def path(keys: list[str]) -> str:
        made = "root"
        for key in keys:
            made = child(made, key)
        return made

    assert (path(first) == path(second)) == (first == second)


@given(st.text())
def test_an_escaped_key_reads_as_the_key(key: str) -> None:
    assert unescape(escape(key)) == key


def test_keys_that_are_no_text_are_written_as_they_are_in_python() -> None:
    assert child("s", 0) == "s.0"
    assert child("", None) == "None"
    assert child("s", 1.5) == r"s.1\.5"
    assert child("s", (1, "a")) == "s.(1, 'a')"
    assert child("s", Typed("torch.dtype", "int8")) == r"s.torch\.dtype('int8')"


def test_leaves_come_in_order_and_empty_containers_are_leaves() -> None:
    found = dict(leaves(expand(STATE, lambda oid: None)))
    assert [path for path in found if path.startswith("optimizer")] == [
        *("optimizer.state.0.step", "optimizer.state.1", "optimizer.groups.0.lr", "optimizer.groups.1"),
    ]
    assert found[r"a\.b"] == "dotted"
    assert found["config.lr"] == 0.1
    assert list(children("x", 3)) == []


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*", "anything.at\\.all"),
        ("model.*", r"model.a\.b.c"),
        ("model.a.b", r"model.a\.b"),
        (r"model.a\.b", r"model.a\.b"),
        ("*weight", "model.weight"),
        ("m?del", "model"),
        ("m[aeo]del", "model"),
        ("m[!ae]del", "model"),
        (r"a\*", "a*"),
        ("a[", "a["),
        ("new*line", "new\nline"),
        ("a+b(c)", "a+b(c)"),
        ("[]]", "]"),
        ("[[]", "["),
        ("[^a]", "^"),
        ("[a-c]", "b"),
        ("[!a-c]", "d"),
        ("[a-]", "-"),
        ("[\\]", "\\"),
        ("[!z-a]", "b"),
    ],
)
def test_a_glob_takes_the_path(pattern: str, path: str) -> None:
    assert Globs([pattern]).match(path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("model", "models"),
        ("model", "model.a"),
        (r"a\*", "ab"),
        ("m[!o]del", "model"),
        ("a.b", "aXb"),
        ("a?", "a"),
        ("[z-a]", "b"),
        ("[!a-c]", "b"),
        ("", "a"),
    ],
)
def test_a_glob_leaves_the_path(pattern: str, path: str) -> None:
    assert not Globs([pattern]).match(path)


@given(st.text("am.*?\\", max_size=6), st.lists(st.text("am.", min_size=1, max_size=2), min_size=1, max_size=3))
def test_no_part_is_ruled_out_that_holds_a_match(pattern: str, keys: list[str]) -> None:
    globs = Globs([pattern])
    path = ""
    above = [""]
    for key in keys:
        path = child(path, key)
        above.append(path)
    if globs.match(path):
        assert all(globs.may_match_under(part) for part in above[:-1])


@given(st.text("am.*?\\[]!-", max_size=8))
def test_every_pattern_is_a_glob(pattern: str) -> None:
    try:
        Globs([pattern]).match("a.m")
    except re.error:
        pytest.fail("a pattern that no regex came of")


def test_selecting_keeps_the_nesting_and_drops_the_rest() -> None:
    trees = Trees(STATE)
    assert trees.select("*") == expand(STATE, trees.fetch)
    assert trees.select("optimizer.state.0") == Map(
        (("optimizer", Map((("state", Map(((0, Map((("step", 3.0),))),))),))),)
    )
    assert trees.select("optimizer.groups.*lr") == Map((("optimizer", Map((("groups", [Map((("lr", 0.1),))]),))),))
    assert trees.select("pair.1") == Map((("pair", (2,)),))
    assert trees.select(r"a\.b", "a.b") == Map((("a.b", "dotted"),))
    assert trees.select("nothing", "model.nothing.*", "pair.7", "config.x") == Map(())


def test_a_part_of_a_mapping_takes_its_metadata_along_and_metadata_alone_is_nothing() -> None:
    trees = Trees(STATE)
    assert trees.select("model.7.weight") == Map(
        (("model", Typed("ordered_dict", Map(((METADATA, Map((("v", 1),))), ("7.weight", _weight(8)))))),)
    )
    assert trees.select("model.nothing*") == Map(())


def test_other_typed_values_are_taken_whole() -> None:
    trees = Trees(STATE)
    assert trees.select("config.lr") == Map((("config", dict(STATE.entries)["config"]),))


def test_selecting_fetches_nothing_of_what_is_left_out() -> None:
    trees = Trees(STATE)
    select(trees.root, Globs(["pair.0", "optimizer.groups.*"]), trees.fetch)
    assert len(trees.fetched) == 1
    trees.fetched.clear()
    select(trees.root, Globs(["model"]), trees.fetch)
    assert len(trees.fetched) == 1  # taken whole: its reference is enough


def test_references_without_end_are_damage() -> None:
    with pytest.raises(CorruptObjectError, match="no end"):
        select(TreeRef(bytes(16)), Globs(["a.b"]), TreeRef)


def test_a_glob_takes_time_in_proportion_whatever_it_is_and_whatever_the_path() -> None:
    began = time.process_time()
    for glob in ("*" * 50 + "x", "*a" * 50 + "x", "*[a]*?" * 30 + "x", "*\\.*" * 30 + "x"):
        for path in ("a" * 20_000, "." * 20_000, "a\\." * 5_000):
            assert not Globs([glob]).match(path)
    assert time.process_time() - began < 30


@pytest.mark.parametrize("value", [Typed("counter", TreeRef(b"loop")), Map((("a", TreeRef(b"loop")),))])
def test_a_tree_that_leads_to_itself_has_no_place_and_is_told(value: Value) -> None:
    with pytest.raises(CorruptObjectError, match="deeper than"):
        find(value, "a" + ".a" * 200, lambda oid: value)
