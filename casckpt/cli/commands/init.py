"""`casckpt init`: make a store."""

from __future__ import annotations

from pathlib import Path

import click

from casckpt.cli import document
from casckpt.cli.codecs import codec_option
from casckpt.cli.options import common_options, size
from casckpt.cli.session import Session, is_store
from casckpt.cli.units import human_bytes


@click.command("init", short_help="Make a store.")
@click.argument("path", required=False)
@click.option(
    "--hash",
    type=click.Choice(["xxh3_128", "blake3"]),
    help="How objects are named: xxh3_128 (the default) is as fast as memory, --hash blake3 is for chunks from people "
    "you do not trust.",
)
@click.option(
    "--chunk-size", metavar="SIZE", callback=size, help="The unit of change, a power of two, --chunk-size 256K."
)
@codec_option("How chunks are stored, --codec small; else auto.")
@common_options
@click.pass_obj
def command(session: Session, path: str | None, hash: str | None, chunk_size: int | None, codec: str | None) -> None:
    """Make a store at PATH (else at -C PATH or CASCKPT_REPO, else in the current folder).

    Hash, chunk size and codec are fixed from then on, though a commit may choose another codec, and `casckpt repack`
    too. What is a store already is left as it is.

    \b
    casckpt init runs/gpt
    casckpt init runs/shared --hash blake3 --chunk-size 256K
    """
    from casckpt.store.lmdb_store import open_store

    place = path or session.repo or str(Path.cwd())
    existed = is_store(Path(place))
    session.changing(f"making a store at {place}")
    store = open_store(place, create=True, hash=hash, chunk_size=chunk_size, codec=codec)
    try:
        form = store.format
        session.done = f"{store.path} is a store"
        if session.json:
            document.write(
                {
                    "path": store.path,
                    "created": not existed,
                    "format": form.version,
                    "uuid": form.uuid,
                    "hash": form.hash,
                    "chunk_size": form.chunk_size,
                    "codec": form.codec,
                }
            )
            return
        did = "is a store already, left as it is" if existed else "is a store now"
        click.echo(f"{store.path} {did}")
        click.echo(f"hash {form.hash}, chunks of {human_bytes(form.chunk_size)}, codec {form.codec}")
    finally:
        store.close()
