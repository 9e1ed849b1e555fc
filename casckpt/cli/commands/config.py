"""`casckpt config`: the settings of the store and of the command line, and where each comes from."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Final

import click

from casckpt.cli import document
from casckpt.cli.codecs import MODES
from casckpt.cli.options import common_options
from casckpt.cli.session import Session
from casckpt.cli.units import printable
from casckpt.errors import StoreNotFoundError, StoreSettingsError

_STORE: Final = {
    "hash": "names objects",
    "chunk_size": "bytes, at most",
    "codec": "of chunks",
    "version": "of the format",
    "uuid": "of this store",
    "map_size": "address space",
}
_ENVIRONMENT: Final = {
    "CASCKPT_REPO": "without -C",
    "CASCKPT_DEBUG": "1: tracebacks",
    "NO_COLOR": "1: no colours",
    "COLUMNS": "of tables",
}
_FIXED: Final = "made so"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. value: None where it is not set. source: where it comes from."""

    name: str
    value: str | int | None
    source: str
    meaning: str


@click.command("config", short_help="Show settings, and where they come from.")
@click.argument("name", required=False)
@click.argument("value", required=False, metavar="")
@common_options
@click.pass_obj
def command(session: Session, name: str | None, value: str | None) -> None:
    """Show the settings of the store and of the command line; with NAME, the bare value of one, for scripts.

    The settings of a store are fixed when it is made: `casckpt init` takes them.

    \b
    casckpt config
    casckpt config chunk_size
    casckpt -C runs/gpt config --json
    """
    if value is not None:
        _refuse(session, name or "", value)
    found = _settings(session, name)
    if name is not None:
        (setting,) = found
        if session.json:
            document.write(asdict(setting))
        else:
            click.echo("" if setting.value is None else setting.value)
    elif session.json:
        document.write([asdict(setting) for setting in found])
    else:
        _print(found)


def _settings(session: Session, name: str | None) -> list[Setting]:
    if name is not None and name not in (*_STORE, *_ENVIRONMENT, "store"):
        raise click.UsageError(_unknown(name))
    found: list[Setting] = []
    if name not in _ENVIRONMENT:
        try:
            found += _of_store(session)
        except StoreNotFoundError:
            if name is not None or session.repo is not None:
                raise
    for variable, meaning in _ENVIRONMENT.items():
        value = os.environ.get(variable)
        found.append(Setting(variable, value, "not set" if value is None else "environment", meaning))
    return [setting for setting in found if name is None or setting.name == name]


def _of_store(session: Session) -> list[Setting]:
    if session.repo is None:
        source = "found here"
    elif session.repo == os.environ.get("CASCKPT_REPO"):
        source = "CASCKPT_REPO"
    else:
        source = "-C"
    with session.history() as history:
        held = history.store.format
        path = history.path
    meanings = {**_STORE, "codec": MODES[held.codec]}
    return [
        Setting("store", path, source, "where it is"),
        *[Setting(name, getattr(held, name), _FIXED, meaning) for name, meaning in meanings.items()],
    ]


def _refuse(session: Session, name: str, value: str) -> None:
    """Say why a value cannot be set, and how to come by it."""
    if name in _ENVIRONMENT:
        raise click.UsageError(f"{name} is set in the environment: export {name}={value}")
    if name not in (*_STORE, "store"):
        raise click.UsageError(_unknown(name))
    if name not in ("hash", "chunk_size", "codec"):
        raise StoreSettingsError(f"{name} cannot be chosen", store=session.store_path(), remedy="leave it as it is")
    option = name.replace("_", "-")
    remedy = f"make another one with `casckpt init PATH --{option} {value}`, and commit into that"
    if name == "codec":
        remedy += f"; or choose it by commit, with codec={value!r}, or for what is there, with `casckpt repack`"
    raise StoreSettingsError(f"{name} is fixed when a store is made", store=session.store_path(), remedy=remedy)


def _unknown(name: str) -> str:
    close = get_close_matches(name, [*_STORE, *_ENVIRONMENT, "store"], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(['store', *_STORE, *_ENVIRONMENT])}"
    return f"there is no setting {name!r}; {hint}"


def _print(found: list[Setting]) -> None:
    from casckpt.cli.console import Column, print_table

    print_table(
        [Column("setting", style="yellow"), Column("value", gives=True, wraps=True), Column("from"),
         Column("", gives=True)],
        [
            [setting.name, "-" if setting.value is None else printable(str(setting.value)), setting.source,
             setting.meaning]
            for setting in found
        ],
    )  # fmt: skip
