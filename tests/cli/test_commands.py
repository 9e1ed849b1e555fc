"""What each command does, for people and for programs; and that --dry-run does nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from casckpt.cli.units import human_age, human_bytes, human_count, human_number, printable
from casckpt.history.repository import History
from casckpt.history.retention import Keep
from tests.cli.conftest import Casckpt
from tests.cli.stores import commit, make_history


def tips(history: History) -> dict[str, str]:
    return {f"{ref.kind}/{ref.name}": ref.commit for ref in history.refs()}


def everything(history: History) -> tuple[Any, ...]:
    """All that a command could change."""
    return tips(history), history.reflog(), list(history.log(None)), history.stats()


# -- finding the store -------------------------------------------------------------------------------------------------


def test_a_store_is_found_by_option_by_environment_and_from_the_folder_up(
    casckpt: Casckpt, history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_history(tmp_path / "other") as other:
        commit(other, {"m": b"x"}, "another store", step=77)
    newest = ["log", "--json", "-n", "1"]
    assert casckpt(*newest, "-C", tmp_path / "other").json[0]["step"] == 77
    monkeypatch.chdir(Path(history.path))
    assert casckpt(*newest).json[0]["step"] == 50
    deep = Path(history.path) / "openers" / "deeper"
    deep.mkdir()
    monkeypatch.chdir(deep)
    assert casckpt(*newest).json[0]["step"] == 50
    monkeypatch.setenv("CASCKPT_REPO", str(tmp_path / "other"))
    assert casckpt(*newest).json[0]["step"] == 77
    assert casckpt("-C", history.path, *newest).json[0]["step"] == 50
    assert casckpt("-C", tmp_path / "other", *newest, "-C", history.path).json[0]["step"] == 50


def test_another_lmdb_environment_on_the_way_up_is_passed_by(
    casckpt: Casckpt, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Path(history.path) / "inner"
    inner.mkdir()
    (inner / "data.mdb").write_bytes(b"of somebody else")
    monkeypatch.chdir(inner)
    assert casckpt("log").code == 0


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_makes_a_store_as_asked_and_leaves_it_alone_the_second_time(casckpt: Casckpt, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "store"
    ran = casckpt("init", path, "--hash", "blake3", "--chunk-size", "256K", "--codec", "small")
    assert ran.code == 0
    assert ran.out == f"{path} is a store now\nhash blake3, chunks of 256 KiB, codec small\n"
    again = casckpt("init", path, "--json")
    assert again.json["created"] is False
    assert again.json["chunk_size"] == 256 << 10
    assert "is a store already, left as it is" in casckpt("-C", path, "init").out
    other = casckpt("init", path, "--codec", "none")
    assert other.code == 2
    assert str(path) in other.err
    assert casckpt("init", tmp_path / "s", "--chunk-size", "1000").code == 2


def test_init_without_a_path_is_here(casckpt: Casckpt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert casckpt("init", "--json").json["path"] == str(tmp_path / "here")
    assert casckpt("log").out == "main has no commit yet\n"


# -- show --------------------------------------------------------------------------------------------------------------


def test_show_tells_all_of_a_commit_and_its_parts(at: Casckpt, history: History) -> None:
    out = at("show", "v1").out
    fields = dict(line.split(maxsplit=1) for line in out.splitlines() if line[:1].strip())
    assert fields["commit"] == history.resolve("v1").id
    assert fields["refs"] == "tag v1"
    assert at("show", "v1", "--json").json["refs"] == ["tag/v1"]
    assert "refs" not in at("status", "--json").json["commit"]  # it has one: an empty list would not be true
    assert fields["step"] == "30"
    assert fields["message"] == "at 30"
    assert fields["metrics"] == "loss 3.0"
    assert fields["state"] == "20.0 KiB in 5 chunks"
    assert fields["model"].split() == ["1", "0", "12.0", "KiB"]
    assert fields["optimizer"].split() == ["1", "0", "8.00", "KiB"]
    found = at("show", "--json").json
    assert found["step"] == 50
    assert found["parts"] == [
        {"name": "model", "tensors": 1, "values": 0, "nbytes": 12288, "released": False},
        {"name": "optimizer", "tensors": 1, "values": 0, "nbytes": 8192, "released": False},
    ]


def test_show_tells_the_metadata(casckpt: Casckpt, tmp_path: Path) -> None:
    meta = {"git": "a1b2c3", "seed": b"\x00\xff", "nested": {"shape": (1, 2.5, None)}}
    with make_history(tmp_path / "s") as history:
        commit(history, {"m": b"x"}, "first line\nsecond line", meta=meta)
    out = casckpt("-C", tmp_path / "s", "show").out
    assert "git 'a1b2c3'" in out
    assert "second line" in out
    assert casckpt("-C", tmp_path / "s", "show", "--json").json["meta"] == {
        "git": "a1b2c3",
        "seed": {"base64": "AP8="},
        "nested": {"shape": [1, 2.5, None]},
    }


def test_show_says_what_was_released(at: Casckpt, history: History) -> None:
    history.prune(Keep(last=2, parts={"optimizer": Keep(last=1)}))
    lines = at("show", "main~1").out.splitlines()
    assert lines[-1].split() == ["optimizer", "released"]
    assert "its state is no longer kept" in at("show", "main~5").out
    assert at("show", "main~5", "--json").json["parts"] == []


# -- moving refs -------------------------------------------------------------------------------------------------------


def test_rollback_moves_the_branch_and_says_how_to_take_it_back(at: Casckpt, history: History) -> None:
    before = everything(history)
    assert at("rollback", "main~2", "--dry-run").out.startswith("main would move from")
    assert everything(history) == before
    ran = at("rollback", "main~2")
    assert "(step 50)" in ran.out
    assert "(step 30)" in ran.out
    assert "casckpt rollback 'main@{1}'" in ran.out
    assert tips(history)["branch/main"] == history.resolve("v1").id
    back = at("rollback", "main@{1}", "--json").json
    assert (back["from"]["step"], back["to"]["step"], back["dry_run"]) == (30, 50, False)
    assert tips(history) == before[0]


def test_an_unborn_branch_can_be_rolled_to_a_commit(casckpt: Casckpt, tmp_path: Path) -> None:
    with make_history(tmp_path / "s") as history:
        commit(history, {"m": b"x"}, branch="other")
    ran = casckpt("-C", tmp_path / "s", "rollback", "other")
    assert ran.code == 0
    assert "take it back" not in ran.out
    assert casckpt("-C", tmp_path / "s", "rollback", "other", "--dry-run", "--json").json["from"] is not None


@pytest.mark.parametrize("kind", ["branch", "tag"])
def test_branches_and_tags_are_made_listed_and_taken_away(at: Casckpt, history: History, kind: str) -> None:
    assert at(kind, "new", "--at", "step:10").out.endswith("(step 10)\n")
    assert tips(history)[f"{kind}/new"] == history.resolve("step:10").id
    assert at(kind, "here", "--json").json["commit"]["step"] == 50
    listed = {entry["name"]: entry["step"] for entry in at(kind, "--json").json}
    assert listed == {"new": 10, "here": 50, **({"main": 50, "try/lr": 25} if kind == "branch" else {"v1": 30})}
    assert [line for line in at(kind).out.splitlines() if "new" in line and "10" in line]
    before = everything(history)
    assert "would be gone" in at(kind, "--delete", "new", "--dry-run").out
    assert everything(history) == before
    was = history.resolve("new").id
    assert at(kind, "--delete", "new", "--json").json == {"dry_run": False, "kind": kind, "name": "new", "was": was}
    assert f"{kind}/new" not in tips(history)
    assert f"was at {history.resolve('here').id[:8]}" in at(kind, "--delete", "here").out


def test_the_current_branch_is_marked(at: Casckpt) -> None:
    marks = {line[2:].split()[0]: line[0] for line in at("branch").out.splitlines()[1:]}
    assert marks == {"main": "*", "try/lr": " "}


def test_an_empty_store_has_neither(casckpt: Casckpt, tmp_path: Path) -> None:
    make_history(tmp_path / "s").close()
    assert "main begins with the first commit" in casckpt("-C", tmp_path / "s", "branch").out
    assert casckpt("-C", tmp_path / "s", "tag").out == "there is no tag yet\n"
    assert casckpt("-C", tmp_path / "s", "reflog").out == "no move is remembered\n"
    assert casckpt("-C", tmp_path / "s", "prune", "--keep-last", "1").out == "no commit is left to prune\n"
    assert casckpt("-C", tmp_path / "s", "gc").out.startswith("nothing to collect")
    assert casckpt("-C", tmp_path / "s", "switch", "main").out == "main is the current branch; it has no commit yet\n"
    assert casckpt("-C", tmp_path / "s", "stats", "--by-commit").code == 0


def test_switch_is_for_whoever_comes_next(at: Casckpt, history: History) -> None:
    assert at("switch", "try/lr").out.startswith("try/lr is the current branch, at ")
    assert history.current_branch == "main"
    assert at("log", "--json", "-n", 1).json[0]["step"] == 25
    created = at("switch", "-c", "from-there", "--json").json
    assert created == {"branch": "from-there", "created": True, "commit": history.resolve("try/lr").id}
    assert "(HEAD -> from-there, try/lr)" in at("log").out


# -- the reflog --------------------------------------------------------------------------------------------------------


def test_the_reflog_numbers_the_moves_of_each_branch(at: Casckpt, history: History) -> None:
    at("rollback", "main~1")
    lines = [line.split() for line in at("reflog").out.splitlines()[1:]]
    assert lines[0][0] == "main@{0}"
    assert lines[0][-3:] == ["rollback", "to", "main~1"]
    assert lines[1][:2] == ["tag", "v1"]
    assert [line[0] for line in lines if line[0].startswith("try/lr")] == ["try/lr@{0}", "try/lr@{1}"]
    for line in lines:
        if "@" in line[0]:
            assert history.resolve(line[0]).id.startswith(line[2])
    moves = at("reflog", "--json", "try/lr").json
    assert [move["action"] for move in moves] == ["commit", "branch at step:20"]
    assert moves[1]["old"] is None
    assert len(at("reflog", "-n", 2).out.splitlines()) == 1 + 2


def test_the_reflog_forgets_what_is_old_and_only_when_told(at: Casckpt, history: History) -> None:
    before = everything(history)
    moves = len(history.reflog())
    assert at("reflog", "--expire").out == "0 moves forgotten (older than 30d)\n"
    assert at("reflog", "--expire", "--older-than", "0s", "--dry-run").out.startswith(f"{moves} moves would be")
    assert everything(history) == before
    assert at("reflog", "try/lr", "--expire", "--older-than", "0s", "--json").json["forgotten"] == 2
    assert "goes with the next `casckpt gc`" in at("reflog", "--expire", "--older-than", "0s").out
    assert history.reflog() == []


# -- giving bytes back -------------------------------------------------------------------------------------------------


def test_prune_says_why_each_commit_is_kept(at: Casckpt, history: History) -> None:
    before = everything(history)
    command = ["prune", "--keep-last", 1, "--keep-best", "loss:max:2", "--part", "optimizer:last=1"]
    ran = at(*command, "--dry-run")
    assert everything(history) == before
    rows = {line.split()[1]: line for line in ran.out.splitlines()[1:-1] if line[:1].strip()}
    assert "tip of main; last 1" in rows["50"]
    assert "tag v1" in rows["30"]
    assert "keep, release optimizer" in rows["10"]
    assert rows["40"].split()[2] == "prune"
    assert "max loss, 1 of 2" in rows["0"]
    assert "would be pruned" in ran.out
    programs = at(*command, "--dry-run", "--json").json
    assert programs["dry_run"] is True
    assert {entry["step"]: entry["kept"] for entry in programs["commits"]} == {
        50: True, 40: False, 30: True, 25: True, 20: False, 10: True, 0: True,
    }  # fmt: skip
    done = at(*command)
    assert "the bytes come back with `casckpt gc`" in done.out
    assert history.resolve("step:40").pruned
    assert history.resolve("step:10").released == ("optimizer",)


def test_prune_takes_every_rule_that_keep_has(at: Casckpt) -> None:
    def kept(*rules: object) -> set[int]:
        commits = at("prune", *rules, "--dry-run", "--json").json["commits"]
        return {entry["step"] for entry in commits if entry["kept"]}

    tips_and_tags = {50, 25, 30}
    assert kept("--keep-first", 1) == tips_and_tags | {0}
    assert kept("--keep-every-steps", 30) == tips_and_tags | {0, 30}
    assert kept("--keep-every", "1d") == tips_and_tags | {0}
    assert kept("--keep-best", "loss:min") == tips_and_tags | {50, 20}
    assert kept("--keep-tag", "w*", "--keep-last", 1) == tips_and_tags - {30}
    assert kept("--keep-tag", "v*", "--keep-branch", "main") == {50, 30}
    assert kept("--part", "optimizer:last=1,first=1,every-steps=10,every=6h,best=loss:min:2,tag=v*,branch=m*")
    assert kept("--part", "a:b:last=3", "--part", "c:last=1") == {0, 10, 20, 25, 30, 40, 50}
    for rule in ("last=3", "opt:last=x", "opt:last=1,many=2", "opt:best=loss", "opt:every=", "opt:last=0"):
        ran = at("prune", "--part", rule, "--dry-run")
        assert ran.code == 2, rule
    assert at("prune", "--part", "a:last=1", "--part", "a:first=1").code == 2


def test_prune_and_gc_in_one_go_give_the_bytes_back(at: Casckpt, history: History) -> None:
    stored = history.stats().stored
    assert "nothing to collect" in at("gc", "--dry-run").out
    report = at("prune", "--keep-last", 1, "--gc", "--json").json
    assert report["pruned"] == 4
    assert report["gc"]["bytes"] == stored - history.stats().stored > 0
    assert report["gc"]["dry_run"] is False
    history.prune(Keep(last=1, tags=False))
    before = everything(history)
    would = at("gc", "--dry-run")
    assert would.out.startswith("gc would give back ")
    assert everything(history) == before
    assert at("gc", "--json").json["chunks"] == 3
    assert at("prune", "--keep-last", 1, "--gc").out.endswith("s)\n")


def test_stats_compare_what_states_would_take_with_what_they_do(at: Casckpt, history: History) -> None:
    out = at("stats").out
    lines = [line.split(maxsplit=1) for line in out.partition("\n\n")[0].splitlines()]
    fields = dict(line for line in lines if len(line) == 2)  # a long path takes a line of its own
    assert fields["commits"] == "7"
    assert fields["refs"] == "2 branches, 1 tag"
    assert fields["logical"] == "130 KiB"
    found = at("stats", "--json", "--by-commit").json
    assert found["logical"] == 6 * 20480 + 10000
    assert found["stored"] == sum(found["stored_by_kind"].values())
    assert found["ratio"] == found["logical"] / found["stored"]
    assert [entry["step"] for entry in found["by_commit"]] == [50, 40, 30, 25, 20, 10, 0]
    assert sum(entry["bytes"]["stored"] for entry in found["by_commit"]) == found["stored_by_kind"]["chunks"]
    assert len(at("stats", "--by-commit", "-n", 2).out.split("message")[1].splitlines()) == 1 + 2
    history.prune(Keep(last=1))
    assert "4 of them pruned" in at("stats").out
    assert "[pruned]" in at("stats", "--by-commit").out


# -- units -------------------------------------------------------------------------------------------------------------


def test_units_are_three_digits_and_a_word() -> None:
    sizes = (0, 999, 1000, 1536, 10239, 102399, 123456789, 1 << 50, 1 << 62)
    assert [human_bytes(size) for size in sizes] == [
        "0 B", "999 B", "0.98 KiB", "1.50 KiB", "10.0 KiB", "100 KiB", "118 MiB", "1.00 PiB", "4096 PiB",
    ]  # fmt: skip
    now = datetime.now(UTC)
    ages = (0, 59, 60, 3599, 7200, 86400 * 6, 86400 * 20, 86400 * 800)
    assert [human_age(now - timedelta(seconds=age), now) for age in ages] == [
        "0 s", "59 s", "1 min", "59 min", "2 h", "6 d", "2 w", "2 y",
    ]  # fmt: skip
    assert human_age(now + timedelta(hours=1), now) == "0 s"
    assert [human_count(n, "branch") for n in (0, 1, 1200)] == ["0 branches", "1 branch", "1,200 branches"]
    assert human_count(2, "commit") == "2 commits"
    assert human_number(2.3141592) == "2.314"
    assert printable("a\x1b\n\u202eb") == "a\ufffd\ufffd\ufffdb"


def test_the_installed_command_is_this_one() -> None:
    """`casckpt` and `python -m casckpt` are the same function."""
    import tomllib

    from tests.processes import ROOT

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"casckpt": "casckpt.cli:main"}
