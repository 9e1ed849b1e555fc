"""`casckpt demo`: its short form for real, and that it does not call proved what does not hold."""

from __future__ import annotations

import json
import random
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import casckpt as package
from casckpt.cli.commands import demo
from casckpt.cli.demo import acts, corpus, report, story
from casckpt.cli.demo.plan import Plan, make_plan
from casckpt.cli.demo.story import Account, Outcome, tell_story, updates
from casckpt.cli.session import Session
from casckpt.errors import CasckptError
from tests.cli.conftest import Casckpt
from tests.cli.terminal import COLUMNS, Terminal
from tests.processes import PATIENCE, ROOT

TINY = Plan(
    steps=8, every=2, killed_at=6, late=1, width=16, layers=2, heads=2, context=8, batch=2, corpus=20_000, warmup=2
)


# The table for people, and what --json would have told.
SHOWN_AND_TOLD = """
import contextlib, sys
from casckpt.cli import main
from casckpt.cli.demo import report
show = report.print_table
def both(outcome):
    show(outcome)
    with open("told.json", "w") as told, contextlib.redirect_stdout(told):
        report.write_json(outcome)
report.print_table = both
sys.exit(main(["demo", "store", "--short"]))
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Terminal]:
    """`casckpt demo --short`, run as people would: where, and what they saw."""
    folder = tmp_path_factory.mktemp("demo")
    with Terminal("-c", SHOWN_AND_TOLD, cwd=folder) as terminal:
        assert terminal.end(4 * PATIENCE) == 0, terminal.text
    return folder, terminal


@pytest.fixture(scope="module")
def short(drawn: tuple[Path, Terminal]) -> tuple[Path, dict[str, Any]]:
    """The store that it made, and the outcome."""
    folder, _ = drawn
    return folder / "store", json.loads((folder / "told.json").read_text())


@pytest.fixture
def settings() -> Iterator[None]:
    """The acts make torch deterministic and seed everything: here they share a process with other tests."""
    threads, state, python = torch.get_num_threads(), torch.get_rng_state(), random.getstate()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.set_rng_state(state)
    random.setstate(python)


def told(capsys: pytest.CaptureFixture[str]) -> Account:
    """What an act told."""
    account = Account({}, {})
    for line in capsys.readouterr().out.splitlines():
        said = json.loads(line)
        if "step" in said:
            account.curve[said["step"]] = said["loss"]
        else:
            account.told.update(said)
    return account


# -- the demo as people run it -----------------------------------------------------------------------------------------


def test_in_a_terminal_it_fits_and_shows_how_far_it_is(drawn: tuple[Path, Terminal]) -> None:
    _, terminal = drawn
    assert max(map(len, terminal.lines)) <= COLUMNS
    assert "what happened" in terminal.text
    assert "proved  gc gave bytes back" in terminal.text
    assert b"\x1b[?25l" in terminal.raw  # the cursor is hidden while there is a bar, which is gone in the end
    assert "\u2501" not in terminal.text


def test_the_demo_proves_every_claim(short: tuple[Path, dict[str, Any]]) -> None:
    _, outcome = short
    assert outcome["ok"] is True
    assert set(outcome["proofs"].values()) == {True}
    assert len(outcome["proofs"]) == 8
    plan, figures = outcome["plan"], outcome["figures"]
    assert figures["equal_losses"] == plan["steps"]
    assert figures["resumed_at"] == plan["killed_at"] - plan["every"]
    assert figures["torn_bytes"] > 0.9 * figures["dense"]["commit_bytes"]  # it was killed with its bytes written
    assert figures["last_loss"] < 0.7 * figures["first_loss"]  # it learns
    assert figures["frozen"]["commit_bytes"] < figures["dense"]["commit_bytes"] / 3
    assert figures["spike"]["spike"] > figures["spike"]["before"]


def test_the_demo_leaves_a_store_to_look_at(short: tuple[Path, dict[str, Any]], casckpt: Casckpt) -> None:
    path, outcome = short
    log = casckpt("-C", path, "log", "--all").out
    assert "(HEAD -> steady)" in log
    assert "(tag: spike) loss spike" in log
    assert "|/" in log
    with package.open(path, create=False) as repo:
        assert set(repo.load("main")) >= {"model", "optimizer", "scheduler", "progress", "rng"}
    assert casckpt("-C", path, "stats", "--json").json["stored"] == outcome["figures"]["pruned"]["after"]


def test_its_table_fits_a_terminal_and_says_what_was_seen(
    short: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, seen = short
    outcome = Outcome(Plan(**seen["plan"]), seen["store"], seen["seconds"], seen["figures"], seen["proofs"])
    report.print_table(outcome)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    words = " ".join(out.split())
    for expected in ("SIGKILLed", "24 of 24", "torch.save", "times fewer bytes", "proved gc gave bytes"):
        assert expected in words
    assert out.splitlines()[-1] == f"  casckpt -C {seen['store']} log --all"
    assert "FAILED" not in out


def test_an_interrupted_demo_says_where_its_store_is_and_leaves_no_process(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "casckpt", "demo", str(tmp_path / "demo"), "--steps", "100000"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    assert running.stderr.readline().startswith("1/4 ")
    while len(processes(tmp_path)) < 3:  # itself, the run and the reference
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert f"what was saved until then is in {tmp_path / 'demo'}" in err
    assert "Traceback" not in err
    # one that was being started at that very moment ends at its first word, which nobody hears
    wait_until = time.monotonic() + PATIENCE
    while processes(tmp_path):
        assert time.monotonic() < wait_until
        time.sleep(0.1)


def processes(path: Path) -> list[Path]:
    """Who runs with this path among its arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(path).encode() in (process / "cmdline").read_bytes():
                found.append(process)
        except OSError:  # it ended while we looked
            continue
    return found


# -- its acts ----------------------------------------------------------------------------------------------------------


def test_the_acts_tell_a_run_that_was_torn_and_goes_on_as_if_it_never_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, settings: None
) -> None:
    store = str(tmp_path / "store")
    acts.reference(TINY, store)
    reference = told(capsys)
    assert sorted(reference.curve) == list(range(1, TINY.steps + 1))
    assert not Path(store).exists()

    def killed(seconds: float) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(acts, "time", SimpleNamespace(sleep=killed))
        with pytest.raises(InterruptedError):
            acts.killed(TINY, store)
    torn = told(capsys)
    assert torn.told["inside_commit"] is True
    assert max(torn.curve) == TINY.killed_at
    with package.open(store, create=False) as repo:
        assert repo.resolve().step == TINY.killed_at - TINY.every

    monkeypatch.setattr(sys, "argv", ["acts", "resumed", TINY.dumps(), store])
    monkeypatch.delitem(sys.modules, "casckpt.cli.demo.acts")
    runpy.run_module("casckpt.cli.demo.acts", run_name="__main__")
    resumed = told(capsys)
    assert resumed.told["resumed"] == TINY.killed_at - TINY.every
    assert resumed.told["weights"] == reference.told["weights"]
    assert reference.curve == {**torn.curve, **resumed.curve}

    acts.afterwards(TINY, store)
    after = told(capsys).told
    assert after["spike"]["restored"] is True
    assert after["pruned"]["loaded"] == after["pruned"]["kept"] > 0
    assert after["pruned"]["after"] < after["pruned"]["before"]
    assert after["dense"]["file_bytes"] > after["frozen"]["commit_bytes"]


def test_a_process_that_nobody_kills_ends_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, settings: None
) -> None:
    def ends(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(acts, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(acts, "os", SimpleNamespace(_exit=ends))
    with pytest.raises(SystemExit):
        acts.killed(TINY, str(tmp_path / "store"))


def test_a_python_without_sources_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(corpus.read_sources(100_000)) == 100_000
    monkeypatch.setattr(corpus.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(CasckptError, match=str(tmp_path)):
        corpus.read_sources(100_000)


def test_a_plan_survives_its_way_to_a_process_and_is_torn_inside_of_the_run() -> None:
    assert Plan.loads(TINY.dumps()) == TINY
    for steps in range(6, 400):
        plan = make_plan(steps)
        assert 0 < plan.killed_at - plan.every < plan.killed_at < steps
        assert plan.killed_at % plan.every == 0


# -- its verdict -------------------------------------------------------------------------------------------------------


class Cast:
    """Acts that tell what a test wants them to, in place of processes."""

    def __init__(self) -> None:
        true = {step: 1 / step for step in range(1, TINY.steps + 1)}
        cost = {"commit_bytes": 10, "state_bytes": 20, "commit_ms": 1.0, "file_bytes": 20, "file_ms": 2.0}
        self.shown: dict[str, Any] = {"shown_step": 4, "open_ms": 1.0, "torn_bytes": 7}
        self.accounts = {
            "reference": Account(dict(true), {"weights": "w", "parameters": 1000}),
            "killed": Account({step: true[step] for step in range(1, 7)}, {"inside_commit": True}),
            "resumed": Account({step: true[step] for step in range(5, 9)}, {"weights": "w", "resumed": 4}),
            "afterwards": Account(
                {},
                {
                    "dense": cost,
                    "frozen": cost,
                    "spike": {"before": 1.0, "spike": 2.0, "after": 1.0, "rollback_ms": 1.0, "restored": True},
                    "pruned": {
                        "commits": 3, "kept": 2, "thinned": 1, "loaded": 2, "before": 100, "after": 50, "gc_ms": 1.0,
                    },
                },
            ),
        }  # fmt: skip

    def play(self, monkeypatch: pytest.MonkeyPatch) -> None:
        accounts = self.accounts

        class Act:
            def __init__(self, name: str, plan: Plan, store: Path, audience: story.Audience) -> None:
                self.name = name
                self.audience = audience

            def __enter__(self) -> Act:
                return self

            def __exit__(self, *error: object) -> None: ...

            def watch(self, *, kill_at: str | None = None) -> Account:
                self.audience.advance(1.0)
                return accounts[self.name]

        monkeypatch.setattr(story, "_Act", Act)
        monkeypatch.setattr(story, "_after_the_kill", lambda path: self.shown)
        monkeypatch.setattr(demo, "_STEPS", TINY.steps)
        from casckpt.cli.demo import plan

        monkeypatch.setattr(plan, "make_plan", lambda steps, layers=2: TINY)


@pytest.fixture
def cast() -> Cast:
    return Cast()


def test_the_verdict_is_0_when_all_holds(cast: Cast, monkeypatch: pytest.MonkeyPatch, casckpt: Casckpt) -> None:
    cast.play(monkeypatch)
    ran = casckpt("demo", "--json")
    assert (ran.code, ran.json["ok"]) == (0, True)
    assert ran.json["store"] == "casckpt-demo"


@pytest.mark.parametrize(
    ("act", "field", "value", "claim"),
    [
        ("killed", "inside_commit", None, "inside a commit"),
        ("resumed", "resumed", 6, "resumed where the store was"),
        ("resumed", "weights", "v", "final weights"),
        ("resumed", 8, 0.126, "every loss"),
        ("killed", 6, 0.1, "every loss"),
        ("shown", "shown_step", 6, "the commit before, whole"),
        ("spike", "restored", False, "before the spike"),
        ("pruned", "loaded", 1, "every commit that was kept loads"),
        ("pruned", "after", 100, "gc gave bytes back"),
    ],
)
def test_a_claim_that_does_not_hold_is_said_to_have_failed(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, casckpt: Casckpt, act: str, field: Any, value: Any, claim: str
) -> None:
    if act == "shown":
        cast.shown[field] = value
    elif act in ("spike", "pruned"):
        cast.accounts["afterwards"].told[act][field] = value
    elif isinstance(field, int):
        cast.accounts[act].curve[field] = value
    else:
        cast.accounts[act].told[field] = value
    cast.play(monkeypatch)
    ran = casckpt("demo", "here")
    assert ran.code == 1
    failed = [line for line in ran.out.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert claim in failed[0]


def test_an_act_that_fails_is_named_with_its_last_word(tmp_path: Path) -> None:
    class Nobody:
        def act(self, title: str) -> None: ...

        def advance(self, loss: float) -> None: ...

    impossible = replace(TINY, heads=3)
    with pytest.raises(CasckptError, match=r"'reference'|'killed'"):
        tell_story(impossible, tmp_path / "store", Nobody())


def test_the_bar_counts_the_updates_of_all_acts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    session = Session()
    with report.stage(session, "STORE", updates(TINY)) as stage:
        stage.act("first")
        stage.advance(2.5)
        assert "the demo was at: first" in session.done
        assert "STORE" in session.done
    assert "1/4 first" in capsys.readouterr().err


def test_what_is_there_already_is_left_alone(
    casckpt: Casckpt, tmp_path: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast.play(monkeypatch)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for path in ("full", "full/thesis.txt"):
        ran = casckpt("demo", path)
        assert ran.code == 2
        assert path in ran.err
    assert casckpt("demo", "--short", "--steps", 9).code == 2
    (tmp_path / "casckpt-demo").mkdir()
    (tmp_path / "empty").mkdir()
    assert casckpt("demo", "--json").json["store"] == "casckpt-demo-2"
    assert casckpt("demo", "empty", "--short", "--json").json["store"] == "empty"
    monkeypatch.setenv("CASCKPT_REPO", str(tmp_path / "full"))
    assert casckpt("demo", "--json").json["store"] == "casckpt-demo-2"  # never in the store that is worked with
