"""`casckpt ls`: what is in a state, for people and for programs."""

from __future__ import annotations

import pytest

from casckpt.history.repository import History
from casckpt.history.retention import Keep
from tests.cli.conftest import Casckpt


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()[1:-1]]


def test_ls_lists_leaves_with_bytes_and_chunks(at: Casckpt) -> None:
    ran = at("ls")
    assert ran.code == 0
    assert rows(ran.out) == [
        ["model.weight", "uint8", "[12288]", "12.0", "KiB", "3"],
        ["optimizer.weight", "uint8", "[8192]", "8.00", "KiB", "2"],
    ]
    assert ran.out.splitlines()[-1] == "2 tensors, 0 values, 20.0 KiB"
    found = at("ls", "--json").json
    assert [(leaf["path"], leaf["nbytes"], leaf["chunks"], leaf["dtype"], leaf["shape"]) for leaf in found] == [
        ("model.weight", 12288, 3, "uint8", [12288]),
        ("optimizer.weight", 8192, 2, "uint8", [8192]),
    ]


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (["try/lr"], ["model.weight"]),
        (["opt*"], ["optimizer.weight"]),
        (["HEAD", "model"], ["model.weight"]),
        (["model"], ["model.weight"]),  # no revision, but a path
        (["v1", "*.weight"], ["model.weight", "optimizer.weight"]),
        (["*nothing*"], []),
    ],
)
def test_revisions_and_globs_are_told_apart(at: Casckpt, words: list[str], paths: list[str]) -> None:
    assert [leaf["path"] for leaf in at("ls", *words, "--json").json] == paths


def test_a_glob_that_fits_nothing_is_said_to(at: Casckpt) -> None:
    ran = at("ls", "*nothing*")
    assert (ran.code, ran.out) == (0, "nothing in the state fits\n")
    assert at("ls", "*nothing*", "--depth", 1).out == ran.out


def test_what_is_neither_is_named(at: Casckpt) -> None:
    ran = at("ls", "nope")
    assert ran.code == 4
    assert "'nope'" in ran.err


def test_ls_sorts_cuts_and_sums_up(at: Casckpt) -> None:
    assert [row[0] for row in rows(at("ls", "--sort", "size", "-n", 1).out)][:1] == ["model.weight"]
    assert "(1 of 2 lines shown" in at("ls", "-n", 1).out
    assert [leaf["path"] for leaf in at("ls", "--sort", "path", "--json").json] == ["model.weight", "optimizer.weight"]
    assert rows(at("ls", "--depth", 1).out) == [
        ["model", "1", "0", "12.0", "KiB", "3"],
        ["optimizer", "1", "0", "8.00", "KiB", "2"],
    ]
    groups = at("ls", "--depth", 1, "--sort", "size", "--json").json
    assert groups[0] == {
        "path": "model", "tensors": 1, "values": 0, "nbytes": 12288, "chunks": 3, "released": False,
    }  # fmt: skip
    assert at("ls", "--depth", 0).code == 2


def test_released_parts_are_shown_as_such(at: Casckpt, history: History) -> None:
    history.prune(Keep(last=2, parts={"optimizer": Keep(last=1)}))
    assert rows(at("ls", "main~1").out)[-1] == ["optimizer", "released"]
    assert rows(at("ls", "main~1", "--depth", 1).out)[-1] == ["optimizer", "released"]
    assert at("ls", "main~5").code == 6
