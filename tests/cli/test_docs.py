"""The reference of the command line says all that there is, and nothing that there is not."""

from __future__ import annotations

import re

import click
import pytest

from casckpt.cli.app import COMMANDS, app
from tests.cli.test_failures import ERRORS
from tests.processes import ROOT

REFERENCE = (ROOT / "docs" / "reference" / "cli.md").read_text()
SECTIONS = {
    found[1]: found[2]
    for found in re.finditer(r"^### `casckpt (\S+)`\n(.*?)(?=^##|\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
}
COMMON = REFERENCE.partition("## Looking")[0]


def test_every_command_is_documented_and_no_other() -> None:
    assert set(SECTIONS) == set(COMMANDS)
    assert app.get_command(click.Context(app), "another") is None


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented_and_has_an_example(name: str) -> None:
    command = app.get_command(click.Context(app), name)
    assert command is not None
    assert f"$ casckpt {name}" in SECTIONS[name] or re.search(rf"\$ casckpt -C \S+ {name}", SECTIONS[name])
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            documented = any(f"`{option}" in SECTIONS[name] + COMMON for option in parameter.opts)
            assert documented, parameter.opts
            assert parameter.help
            plain = parameter.name in ("json", "dry_run") or parameter.is_flag
            assert plain or any(f"{option} " in parameter.help for option in parameter.opts) or (
                "'" in parameter.help
            ), f"{parameter.opts}: no example in {parameter.help!r}"  # fmt: skip


def test_every_exit_code_is_documented_with_its_kinds() -> None:
    table = {int(found[1]): found[2] for found in re.finditer(r"^\| (\d+) \| (.*) \|$", REFERENCE, re.MULTILINE)}
    for error in ERRORS:
        if error.kind != "error":
            assert f"`{error.kind}`" in table[error.exit_code], error
    assert {0, 1, 2, 70, 130, 141} < set(table)
