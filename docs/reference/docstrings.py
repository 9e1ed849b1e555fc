"""Makes lists of what the docstrings say of parameters, fields and errors, for the site: mkdocstrings loads this."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

_FIELD = re.compile(r"^((?:\*\*)?[a-z_]\w*(?:, [a-z_]\w*)*(?: \([^)]*\))?): (?=\S)")
_ERRORS = re.compile(r"^ {4}([A-Z]\w+(?:, [A-Z]\w+)*)(?:: (.*)|(.*))$")


def markdown(docstring: str) -> str:
    """A docstring as Markdown: paragraphs of `name: what it is` and of `Raises:` become lists."""
    return "\n\n".join(map(_paragraph, re.split(r"\n\s*\n", docstring)))


def _paragraph(text: str) -> str:
    lines = text.split("\n")
    if "├" in text:
        return f"```text\n{text}\n```"
    if lines[0] in ("Raises:", "Warns:"):
        return "**Raises**\n\n" + "\n".join(map(_error, lines[1:]))
    if not _FIELD.match(lines[0]):
        return text
    return "\n".join(_FIELD.sub(r"- **\1**: ", line) if _FIELD.match(line) else f"    {line.strip()}" for line in lines)


def _error(line: str) -> str:
    found = _ERRORS.match(line)
    if found is None:
        return f"    {line.strip()}"
    names = ", ".join(f"`{name}`" for name in found[1].split(", "))
    return f"- {names}" + (f": {found[2]}" if found[2] else found[3] or "")


class Docstrings(griffe.Extension):
    """Sees every object that the site shows."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """A method that says nothing says what the one says that it overrides."""
        for cls in _classes(pkg):
            for name, member in cls.members.items():
                if member.is_function and member.docstring is None:
                    said = [base.members[name].docstring for base in cls.mro() if name in base.members]
                    member.docstring = next(filter(None, said), None)


def _classes(module: griffe.Module) -> Iterator[griffe.Class]:
    for member in module.members.values():
        if member.is_alias:
            continue
        if isinstance(member, griffe.Module):
            yield from _classes(member)
        elif isinstance(member, griffe.Class):
            yield member
