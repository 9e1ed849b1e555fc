"""The pages of the documentation as blocks of code: what a reader would type, and what he is told that he would see.

In a page, blocks are run in order, in one folder:

    ```python                 in one interpreter; a ```text block right behind it is what it prints
    ```python title="x.py"    is written to that file
    ```sh                     by the shell
    ```console                lines that begin with "$ " by the shell, one by one; behind each what it prints

A python block that begins with "# not run: why" is only compiled. A comment <!-- numbers vary --> before a block says
that no number in its output is promised; <!-- not run: why --> that it is only shown; <!-- long --> that it is run, its
numbers not promised, when outputs are written anew, but not in tests, which have the same elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.processes import ROOT

DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(?P<language>[a-z]*)[ ]?(?P<info>.*)\n(?P<text>(?:.*\n)*?)^```$", re.MULTILINE)
_REMARK = re.compile(r"<!-- (.*) -->\n\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block. start, end: of its text in the page. remark: the comment on the line before it."""

    language: str
    info: str
    text: str
    start: int
    end: int
    line: int
    remark: str

    @property
    def title(self) -> str | None:
        found = re.search(r'title="([^"]*)"', self.info)
        return found[1] if found else None

    @property
    def is_only_shown(self) -> bool:
        return self.text.startswith("# not run") or self.remark.startswith("not run")

    @property
    def is_long(self) -> bool:
        return self.remark == "long"

    @property
    def numbers_vary(self) -> bool:
        return self.remark in ("numbers vary", "long")

    @property
    def is_console(self) -> bool:
        return self.language in ("console", "") and self.text.startswith("$ ")


@dataclass(frozen=True)
class Command:
    """One command of a console block, and what stands below it."""

    line: str
    output: str


def all_pages() -> list[Path]:
    """The pages with code in them."""
    return [page for page in sorted(DOCS.rglob("*.md")) if any(is_run(block) for block in blocks(page.read_text()))]


def blocks(text: str) -> list[Block]:
    found = []
    for match in _FENCE.finditer(text):
        remark = _REMARK.search(text[: match.start()])
        found.append(
            Block(
                match["language"],
                match["info"],
                match["text"],
                match.start("text"),
                match.end("text"),
                text.count("\n", 0, match.start()) + 1,
                remark[1] if remark else "",
            )
        )
    return found


def is_run(block: Block) -> bool:
    return (block.language in ("python", "sh") or block.is_console) and not block.is_only_shown


def output_of(block: Block, page: str) -> Block | None:
    """The text block right behind a block, which shows what it prints."""
    match = _FENCE.match(page, block.end + len("```\n\n"))
    if match is None or match["language"] != "text" or page[block.end : match.start()].strip("`\n"):
        return None
    line = page.count("\n", 0, match.start()) + 1
    return Block("text", "", match["text"], match.start("text"), match.end("text"), line, block.remark)


def commands(block: Block) -> list[Command]:
    """The commands of a console block; one goes on in the next line behind a backslash."""
    found: list[Command] = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        while line.endswith("\\"):
            more, _, output = output.partition("\n")
            line += "\n" + more
        found.append(Command(line, output))
    return found
