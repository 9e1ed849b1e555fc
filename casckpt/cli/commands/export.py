"""`casckpt export`: write a commit's state as a file of another format."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from casckpt.cli import document
from casckpt.cli.options import common_options, size
from casckpt.cli.progress import Watch
from casckpt.cli.session import Session
from casckpt.cli.units import human_bytes, human_count, printable, short

if TYPE_CHECKING:
    from casckpt.tensors.formats.write import ExportReport


@click.command("export", short_help="Write a state as safetensors, a torch file, npz or a folder.")
@click.argument("words", metavar="[REV] DEST", nargs=-1, required=True)
@click.option(
    "--format",
    type=click.Choice(["safetensors", "torch", "npz", "pretrained"]),
    help="What to write, where the suffix of DEST does not say, --format pretrained.",
)
@click.option("--part", metavar="NAME", help="Only what is under this top-level key, --part model.")
@click.option(
    "--path", "paths", multiple=True, metavar="GLOB", help="Only leaves whose path fits, --path 'model.layers.0.*'."
)
@click.option(
    "--max-shard-size",
    metavar="SIZE",
    callback=size,
    help="Cut safetensors into files of so many bytes of tensors, --max-shard-size 5G.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is at DEST.")
@common_options
@click.pass_obj
def command(
    session: Session,
    words: tuple[str, ...],
    format: str | None,
    part: str | None,
    paths: tuple[str, ...],
    max_shard_size: int | None,
    overwrite: bool,
) -> None:
    """Write the state of REV (the newest commit, unless given) to DEST: whole, or not at all.

    By its suffix DEST is a safetensors file (.safetensors), a torch file (.pt, .pth, .bin, .ckpt) or an npz file
    (.npz); without one it is a folder that from_pretrained reads. The reference says what each format holds.

    \b
    casckpt export weights.safetensors --part model
    casckpt export best:val_loss:min best.pt
    casckpt export v1 gpt-v1/ --max-shard-size 5G
    """
    if len(words) > 2:
        raise click.UsageError(f"[REV] DEST are at most two words: what is {words[2]!r}?")
    revision, target = words if len(words) == 2 else ("HEAD", words[0])
    with session.repository() as repo:
        commit = repo.resolve(revision)
        session.done = f"{target} is whole, or as it was"
        with Watch("reading the state", unit="bytes") as watch:
            report = repo.export(
                commit.id,
                target,
                format=format,
                part=part,
                paths=paths or None,
                max_shard_size=max_shard_size,
                overwrite=overwrite,
                progress=watch,
            )
        session.done = f"{target} was written"
    if session.json:
        document.write({"commit": document.commit_fields(commit), **asdict(report)})
        return
    click.echo(_line(report, target, short(commit.id), commit.step))
    for note in report.notes:
        click.echo(note, err=True)


def _line(report: ExportReport, target: str, commit: str, step: int | None) -> str:
    count = len(report.files)
    files = "" if count == 1 else f", in {human_count(count, 'file')}"
    at = "" if step is None else f" (step {step})"
    tensors = human_count(report.tensors, "tensor")
    return f"{printable(target)} has {tensors} of {commit}{at}: {human_bytes(report.bytes)}{files}"
