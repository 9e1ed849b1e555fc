"""`casckpt demo`: the main job on a real training run, each claim checked."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import click

from casckpt.cli.options import json_option
from casckpt.cli.session import Session

_STEPS = 160
# The short form is for machines that check a change: fewer updates, of a smaller model.
_SHORT = 24
_SHORT_LAYERS = 4
_UNPROVED = 1


@click.command("demo", short_help="See all of it at work, in about a minute.")
@click.argument("path", required=False)
@click.option(
    "--steps", type=click.IntRange(min=6), metavar="N", help=f"How many updates the run has: --steps 600. [{_STEPS}]"
)
@click.option("--short", is_flag=True, help=f"Only {_SHORT} updates of a smaller model, in some 15 seconds.")
@json_option
@click.pass_context
def command(context: click.Context, path: str | None, steps: int | None, short: bool) -> None:
    """Train a small transformer on Python's own library sources, and put its checkpoints to the test.

    It is killed in the middle of a commit, resumed, compared bit for bit with a run that was never interrupted, partly
    frozen, rolled back after a loss spike, and pruned. Nothing is downloaded. The store is left at PATH (else in a new
    folder here), for `casckpt log` to look at. The exit code is 1 if any claim does not hold.

    \b
    casckpt demo
    casckpt demo /tmp/demo --short
    """
    if short and steps is not None:
        raise click.UsageError("--short is a number of updates already: leave --steps out")
    session: Session = context.obj
    store = _free_place() if path is None else Path(path)
    if store.exists() and not (store.is_dir() and not any(store.iterdir())):
        raise click.UsageError(f"there is something at {store} already: name a new folder, or take it away first")
    from casckpt.cli.demo import report
    from casckpt.cli.demo.plan import make_plan
    from casckpt.cli.demo.story import tell_story, updates

    store.parent.mkdir(parents=True, exist_ok=True)
    plan = make_plan(_SHORT, _SHORT_LAYERS) if short else make_plan(steps or _STEPS)
    with report.stage(session, str(store), updates(plan)) as stage:
        outcome = tell_story(plan, store, stage)
    if session.json:
        report.write_json(outcome)
    else:
        report.print_table(outcome)
    if not outcome.ok:
        context.exit(_UNPROVED)


def _free_place() -> Path:
    """A folder here that does not exist yet: casckpt-demo, casckpt-demo-2, …"""
    places = (Path("casckpt-demo" if number == 1 else f"casckpt-demo-{number}") for number in count(1))
    return next(place for place in places if not place.exists())
