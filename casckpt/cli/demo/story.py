"""Directs the demo: starts its acts, kills one of them, compares what they tell, and comes to a verdict. No torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import casckpt
from casckpt.cli.demo.plan import Plan
from casckpt.errors import CasckptError
from casckpt.history.repository import History
from casckpt.store.lmdb_store import open_store


@dataclass(frozen=True, slots=True)
class Account:
    """What an act told: the loss of each update by its number, and everything else."""

    curve: dict[int, float]
    told: dict[str, Any]


class Audience(Protocol):
    """Who watches."""

    def act(self, title: str) -> None:
        """A new act begins."""

    def advance(self, loss: float) -> None:
        """One more update is done."""


@dataclass
class Outcome:
    """What was seen. `proofs`: each claim, and whether it held."""

    plan: Plan
    store: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    proofs: dict[str, bool] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return bool(self.proofs) and all(self.proofs.values())


def updates(plan: Plan) -> int:
    """How many updates all acts together make."""
    again = plan.steps - (plan.killed_at - plan.every)
    return plan.steps + plan.killed_at + again + 2 * 3 * plan.late + 1 + 2 * plan.late


def tell_story(plan: Plan, store: Path, audience: Audience) -> Outcome:
    """All acts. The store is left for people to look at.

    Raises:
        CasckptError: an act ended early, by its own fault.
    """
    began = time.monotonic()
    outcome = Outcome(plan, str(store))
    # the pool is left last: it waits for the reference, which is gone by then
    with ThreadPoolExecutor(1) as pool, _Act("reference", plan, store, audience) as beside:
        reference = pool.submit(beside.watch)
        _kill_and_resume(plan, store, audience, outcome, reference)
    audience.act("freezing, a spike, pruning")
    with _Act("afterwards", plan, store, audience) as act:
        found = act.watch().told
    outcome.figures |= found
    spike, pruned = found["spike"], found["pruned"]
    outcome.proofs["weights and optimizer came back as before the spike, bit for bit"] = spike["restored"]
    outcome.proofs["every commit that was kept loads"] = pruned["loaded"] == pruned["kept"] > 0
    outcome.proofs["gc gave bytes back"] = pruned["after"] < pruned["before"]
    outcome.seconds = time.monotonic() - began
    return outcome


def _kill_and_resume(plan: Plan, store: Path, audience: Audience, outcome: Outcome, reference: Future[Account]) -> None:
    """A run with commits, killed inside of one and resumed; and its comparison with the run that never stopped."""
    audience.act("training until it is killed")
    with _Act("killed", plan, store, audience) as act:
        before = act.watch(kill_at="inside_commit")
    outcome.proofs["the run was killed inside a commit"] = before.told.get("inside_commit") is True
    outcome.figures |= _after_the_kill(store)
    resumes_at = plan.killed_at - plan.every
    outcome.proofs["the store shows the commit before, whole"] = outcome.figures["shown_step"] == resumes_at

    audience.act("resuming in a new process")
    with _Act("resumed", plan, store, audience) as act:
        after = act.watch()
    audience.act("waiting for the reference")
    true = reference.result()
    together = {**{step: loss for step, loss in before.curve.items() if step <= resumes_at}, **after.curve}
    outcome.figures |= {
        "parameters": true.told["parameters"],
        "first_loss": true.curve[1],
        "last_loss": true.curve[plan.steps],
        "resumed_at": after.told["resumed"],
        "equal_losses": sum(true.curve[step] == together.get(step) for step in true.curve),
    }
    outcome.proofs["the run resumed where the store was"] = after.told["resumed"] == resumes_at
    outcome.proofs["every loss is the reference's, bit for bit"] = (
        together == true.curve and before.curve.items() <= true.curve.items()
    )
    outcome.proofs["the final weights are the reference's, bit for bit"] = after.told["weights"] == true.told["weights"]


def _after_the_kill(path: Path) -> dict[str, Any]:
    """What the store shows of a run that was killed, and how much of its torn commit lies there unseen."""
    began = time.perf_counter()
    with History(open_store(path, create=False)) as history:
        shown = history.resolve()
        taken = time.perf_counter() - began
        return {"shown_step": shown.step, "open_ms": 1000 * taken, "torn_bytes": history.gc(dry_run=True).bytes}


class _Act:
    """A process for one act, from `with` to the end of its block; it is gone then, however that comes."""

    def __init__(self, name: str, plan: Plan, store: Path, audience: Audience) -> None:
        self._name = name
        self._audience = audience
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed when the act is over
        home = str(Path(casckpt.__file__).parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "casckpt.cli.demo.acts", name, plan.dumps(), str(store)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])},
            start_new_session=True,  # Ctrl-C is for us: the act would take it as a signal to save and stop
        )

    def __enter__(self) -> _Act:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def watch(self, *, kill_at: str | None = None) -> Account:
        """Listen to its end, or kill it when it tells `kill_at`.

        Raises:
            CasckptError: it ended with an error.
        """
        account = Account({}, {})
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                said = json.loads(line)
                if "step" in said:
                    account.curve[said["step"]] = said["loss"]
                    self._audience.advance(said["loss"])
                else:
                    account.told.update(said)
                if kill_at in said:
                    self._process.kill()
            code = self._process.wait()
            if code != (-signal.SIGKILL if kill_at in account.told else 0):
                self._errors.seek(0)
                last = (self._errors.read().strip().splitlines() or ["without a word"])[-1]
                raise CasckptError(f"the demo's process {self._name!r} ended with {code}: {last}")
        return account
