"""`casckpt restore`: the state of an earlier commit, or parts of it, as a new commit."""

from __future__ import annotations

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, dry_run_option, revision_argument
from casckpt.cli.session import Session
from casckpt.cli.units import human_bytes, printable, short


@click.command("restore", short_help="Make an earlier state the newest commit.")
@revision_argument()
@click.option(
    "--part",
    "parts",
    multiple=True,
    metavar="NAME",
    help="Only this part (a top-level key), --part optimizer; the rest is as in the branch's newest commit.",
)
@click.option("-m", "--message", metavar="TEXT", default="", help="What the new commit says, -m 'before the spike'.")
@dry_run_option
@common_options
@click.pass_obj
def command(session: Session, revision: str, parts: tuple[str, ...], message: str, dry_run: bool) -> None:
    """Make the state of REV a new commit of the current branch: what a training process then resumes from.

    It is to `casckpt rollback` what `git revert` is to `git reset`: nothing leaves the branch, nothing is deleted, and
    no chunk is written or read. (`Repository.restore` in Python is another thing: it writes a state into live objects.)

    The new commit has the step and metrics of REV; with --part the step of the newest commit, and no metrics, since
    nobody has measured such a state.

    \b
    casckpt restore best:val_loss:min
    casckpt restore step:1000 --part optimizer --part scheduler
    casckpt restore main~3 -m 'before the spike' --dry-run
    """
    with session.history() as history:
        branch = history.current_branch
        source = history.resolve(revision)
        if not dry_run:
            session.changing(f"the new commit on {branch}")
        made = history.reinstate(revision, parts=parts or None, message=message, dry_run=dry_run)
        session.done = "nothing was changed" if dry_run else f"{branch} has the new commit {made.id}"
    if session.json:
        document.write(
            {
                "dry_run": dry_run,
                "branch": branch,
                "parts": list(parts) or None,
                "from": document.commit_fields(source),
                "commit": document.commit_fields(made),
            }
        )
        return
    what = ", ".join(map(printable, parts)) + " of " if parts else ""
    named = short(source.id) + ("" if source.step is None else f" (step {source.step})")
    size = "" if made.figures is None else f", {human_bytes(made.figures.logical)}"
    if dry_run:
        click.echo(f"{branch} would have a new commit with {what}{named}{size}")
    else:
        click.echo(f"{branch} has a new commit {short(made.id)} with {what}{named}{size}")
        if made.parents:
            click.echo(f"take it back with: casckpt rollback '{branch}@{{1}}'")
