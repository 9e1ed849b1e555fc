"""`casckpt log` and the graph that it draws."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casckpt.cli.graph import Graph
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from tests.cli.conftest import Casckpt
from tests.cli.stores import commit, long_history, make_history
from tests.processes import PATIENCE, ROOT


def draw(*commits: tuple[str, str]) -> list[str]:
    """The rows of a graph: ("d", "bc") is commit d with parents b and c."""
    graph = Graph()
    rows = []
    for name, parents in commits:
        edges, row = graph.draw(name, list(parents))
        rows += [*edges, f"{row} {name}"]
    return rows


def test_a_fork_is_two_lines_that_join_where_it_began() -> None:
    assert draw(("e", "c"), ("d", "b"), ("c", "b"), ("b", "a"), ("a", "")) == [
        "* e",
        "| * d",
        "* | c",
        "|/",
        "* b",
        "* a",
    ]


def test_a_line_crosses_others_on_its_way_to_where_it_began() -> None:
    assert draw(("x", "a"), ("y", "b"), ("z", "a"), ("w", "c"), ("a", ""), ("c", ""), ("b", "")) == [
        "* x",
        "| * y",
        "| | * z",
        "| | | * w",
        "|_|/ /",
        "* | | a",
        " / /",
        "| * c",
        "* b",
    ]


def test_a_line_that_ends_does_not_seem_to_go_on() -> None:
    assert draw(("r", ""), ("d", "c"), ("y", ""), ("z", ""), ("c", "")) == [
        "* r",
        "",
        "* d",
        "| * y",
        "| ",
        "| * z",
        "* c",
    ]


def test_a_second_parent_is_a_line_of_its_own() -> None:
    assert draw(("x", "b"), ("m", "bc"), ("y", "b"), ("c", "b"), ("b", "")) == [
        "* x",
        "| * m",
        "| |\\",
        "| | | * y",
        "| | * | c",
        "|/ / /",
        "|/ /",
        "|/",
        "* b",
    ]


@given(st.lists(st.integers(min_value=1, max_value=5), max_size=30), st.data())
def test_whatever_the_history_each_commit_has_one_row_and_is_marked_in_it_once(
    jumps: list[int], data: st.DataObject
) -> None:
    names = [chr(0x100 + number) for number in range(len(jumps))]
    graph = Graph()
    for number, (name, jump) in enumerate(zip(names, jumps, strict=True)):
        parents = names[number + jump : number + jump + data.draw(st.integers(0, 2))]
        edges, row = graph.draw(name, parents)
        assert row.count("*") == 1
        assert set(row) <= set("*| ")
        assert not any(set(edge) - set("|/\\_ ") for edge in edges)


def test_the_log_shows_the_newest_first_with_figures_and_names(at: Casckpt) -> None:
    ran = at("log")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["commit", "step", "metrics", "age", "new", "shared", "message"]
    assert [line.split()[2] for line in lines[1:]] == ["50", "40", "30", "20", "10", "0"]
    assert "loss 1" in lines[1]
    assert "(HEAD -> main) at 50" in lines[1]
    assert "(tag: v1) at 30" in lines[3]
    assert "12.1 KiB" in lines[1]  # three chunks of 4096 bytes are new, each with its frame's head
    assert "8.00 KiB" in lines[1]  # what it shares with the one before
    assert max(map(len, lines)) <= 80


def test_the_log_of_everything_draws_branches_side_by_side(at: Casckpt) -> None:
    lines = at("log", "--all").out.splitlines()[1:]
    assert [line[:3] for line in lines] == ["*  ", "*  ", "*  ", "| *", "|/", "*  ", "*  ", "*  "]
    assert "(try/lr) on a branch" in lines[3]


def test_a_page_says_that_there_is_more(at: Casckpt) -> None:
    assert "-n 0 shows all" in at("log", "-n", 3).out
    assert "-n 0 shows all" not in at("log", "-n", 6).out
    assert len(at("log", "-n", 3).out.splitlines()) == 1 + 3 + 1
    assert len(at("log", "-n", 0).out.splitlines()) == 1 + 6


def test_the_log_begins_where_it_is_told(at: Casckpt) -> None:
    assert [entry["step"] for entry in at("log", "--json", "main~3").json] == [20, 10, 0]
    assert [entry["step"] for entry in at("log", "--json", "--branch", "try/lr").json] == [25, 20, 10, 0]
    assert at("log", "--json", "--branch", "try/lr", "best:loss:max").json[0]["step"] == 25
    assert [entry["step"] for entry in at("log", "--json", "--all").json] == [50, 40, 30, 25, 20, 10, 0]


def test_json_holds_every_field(at: Casckpt, history: History) -> None:
    entries = at("log", "--json", "-n", 2).json
    newest = history.resolve()
    assert newest.figures is not None
    assert len(entries) == 2
    assert entries[0] == {
        "id": newest.id,
        "parents": [entries[1]["id"]],
        "tree": newest.tree,
        "branch": "main",
        "refs": ["branch/main"],
        "step": 50,
        "metrics": {"loss": 1.0},
        "message": "at 50",
        "time": "2023-11-14T22:14:10Z",
        "host": "node",
        "meta": {},
        "pruned": False,
        "released": [],
        "bytes": {
            "logical": 20480,
            "new": newest.figures.new,
            "stored": newest.figures.stored,
            "shared": 20480 - newest.figures.new,
            "chunks": newest.figures.chunks,
            "new_chunks": newest.figures.new_chunks,
        },
    }


def test_metrics_that_json_cannot_say_are_strings(casckpt: Casckpt, tmp_path: Path) -> None:
    with make_history(tmp_path / "s") as history:
        commit(history, {"m": b"x"}, metrics={"a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": 1.0})
    ran = casckpt("-C", tmp_path / "s", "log", "--json")
    assert ran.json[0]["metrics"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1.0}
    assert "a nan, b inf +2" in casckpt("-C", tmp_path / "s", "log").out


def test_pruned_and_thinned_commits_are_marked(at: Casckpt, history: History) -> None:
    history.prune(Keep(last=2, parts={"optimizer": Keep(last=1)}))
    lines = at("log").out.splitlines()[1:]
    assert [line[0] for line in lines] == ["*", "*", "*", "*", "x", "x"]
    assert "[without optimizer]" in lines[1]
    assert "[pruned]" in lines[-1]
    entries = at("log", "--json").json
    assert entries[1]["released"] == ["optimizer"]
    assert entries[-1]["pruned"] is True


def test_a_table_fits_its_terminal_by_cutting_the_message(
    casckpt: Casckpt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_history(tmp_path / "s") as history:
        commit(history, {"m": b"x"}, "a message of many words " * 9, step=10**9, metrics={"loss": 1.5, "rate": 1e-5})
    for command in ("log", "branch", "stats --by-commit", "prune --keep-last 1 --dry-run"):
        for width in ("80", "120"):
            monkeypatch.setenv("COLUMNS", width)
            lines = casckpt("-C", tmp_path / "s", *command.split()).out.splitlines()
            assert max(map(len, lines)) <= int(width), command
            assert any("…" in line for line in lines), command


def test_an_empty_store_has_an_empty_log(casckpt: Casckpt, tmp_path: Path) -> None:
    make_history(tmp_path / "s").close()
    ran = casckpt("-C", tmp_path / "s", "log")
    assert (ran.code, ran.out) == (0, "main has no commit yet\n")
    assert casckpt("-C", tmp_path / "s", "log", "--json").json == []


def test_a_message_cannot_speak_to_the_terminal(casckpt: Casckpt, tmp_path: Path) -> None:
    with make_history(tmp_path / "s") as history:
        commit(history, {"m": b"x"}, "\x1b[31mred[/red] \x9b2J\nsecond line", metrics={"\x1b]0;title\x07": 1.0})
    for command in ("log", "show", "stats --by-commit", "branch"):
        out = casckpt("-C", tmp_path / "s", *command.split()).out
        assert "\x1b" not in out
        assert "\x9b" not in out
    assert "[31mred[/red]" in casckpt("-C", tmp_path / "s", "log").out


def test_all_and_a_revision_contradict_each_other(at: Casckpt) -> None:
    for others in (("main",), ("--branch", "main")):
        ran = at("log", "--all", *others)
        assert ran.code == 2
        assert "--all" in ran.err


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "store"
    long_history(path, 10_000)
    return path


def test_the_first_page_of_ten_thousand_commits_comes_within_0_3_s(ten_thousand: Path) -> None:
    """As a whole process. It waits for nothing, so its time is that on the processor: others may be busy meanwhile."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    took = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run(
            [sys.executable, "-m", "casckpt", "-C", ten_thousand, "log"],
            cwd=ROOT,
            env=outside,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert ran.returncode == 0
        assert len(ran.stdout.splitlines()) == 22
    assert min(took) < 0.3


@pytest.mark.parametrize(
    "command",
    ["log", "show", "branch", "tag", "reflog", "stats", "gc --dry-run", "prune --keep-last 5", "switch main", "--help"],
)
def test_looking_at_a_store_imports_neither_torch_nor_numpy(ten_thousand: Path, process: Casckpt, command: str) -> None:
    source = (
        "import sys; from casckpt.cli import main; code = main(sys.argv[1:]);"
        "print(code, [name for name in ('torch', 'numpy') if name in sys.modules], file=sys.stderr)"
    )
    assert process("-C", ten_thousand, *command.split(), source=source).err.strip() == "0 []"
