"""Draws the diagrams of this folder: `python docs/explanation/draw.py`.

Each stands on a card of its own, so that it can be read on a light page and on a dark one, and loads nothing.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

INK, FAINT, CARD, LINE = "#1f2933", "#616e7c", "#f7f9fb", "#9aa5b1"
BLUE, GREEN, ORANGE, GREY = "#bfdbfe", "#bbe5c5", "#fbd38d", "#e4e7eb"


class Drawing:
    """Boxes, arrows and words on a card of so many points."""

    def __init__(self, width: int, height: int, says: str) -> None:
        self._size = (width, height)
        self._says = says
        self._parts: list[str] = []

    def box(
        self, x: int, y: int, width: int, height: int, text: str = "", fill: str = GREY, *, gone: bool = False
    ) -> None:
        dash = ' stroke-dasharray="4 3"' if gone else ""
        colour = "none" if gone else fill
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{colour}" stroke="{LINE}"{dash}/>'
        )
        lines = text.split("\n") if text else []
        top = y + height / 2 - 8 * (len(lines) - 1) + 4.5
        for number, line in enumerate(lines):
            self.words(x + width // 2, top + 16 * number, line, FAINT if gone else INK, "middle")

    def words(self, x: float, y: float, text: str, colour: str = FAINT, anchor: str = "start", size: int = 13) -> None:
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[int, int], gone: bool = False) -> None:
        dash = ' stroke-dasharray="4 3"' if gone else ""
        path = " ".join(f"{x},{y}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{FAINT}" stroke-width="1.4" marker-end="url(#tip)"{dash}/>'
        )

    def svg(self) -> str:
        width, height = self._size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
                f' height="{height}" role="img" font-family="system-ui, sans-serif">',
                f"<title>{escape(self._says)}</title>",
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
                f' orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{FAINT}"/></marker></defs>',
                f'<rect width="{width}" height="{height}" rx="10" fill="{CARD}"/>',
                *self._parts,
                "</svg>\n",
            ]
        )


def chunks() -> Drawing:
    d = Drawing(720, 300, "Two commits of one tensor: three of its four chunks are the same, and are stored once")
    for row, (name, changed) in enumerate((("commit of step 100", False), ("commit of step 200", True))):
        y = 30 + 190 * row
        d.words(24, y + 14, name, INK)
        d.words(24, y + 32, "one storage, 3.5 MiB")
        for place in range(4):
            fill = ORANGE if changed and place == 2 else BLUE
            d.box(
                190 + 120 * place, y, 100 if place == 3 else 120, 36, ("1 MiB", "1 MiB", "1 MiB", "½ MiB")[place], fill
            )
    d.words(24, 146, "in the store", INK)
    d.words(24, 164, "five chunks, not eight")
    at = (190, 300, 416, 532, 640)
    for place, (x, name) in enumerate(zip(at, ("5f0c…", "a81e…", "27d3…", "c09b…", "e4f7…"), strict=True)):
        d.box(x, 134, 64, 34, name, ORANGE if place == 3 else GREEN)
    for place, target in enumerate((0, 1, 2, 4)):
        d.arrow((190 + 120 * place + 50, 66), (at[target] + 32, 133))
    for place, target in enumerate((0, 1, 3, 4)):
        d.arrow((190 + 120 * place + 50, 220), (at[target] + 32, 169))
    d.words(
        24, 286, "The id of a chunk is the hash of its bytes. Equal bytes have one id, and stand in the store once."
    )
    return d


def commits() -> Drawing:
    d = Drawing(
        720, 400, "Branches and tags point to commits, commits to trees, trees to storage nodes, nodes to chunks"
    )
    d.box(24, 24, 92, 30, "main", ORANGE)
    d.box(24, 214, 92, 30, "tag v1", ORANGE)
    for y, step in ((24, 200), (214, 100)):
        d.box(150, y, 104, 46, f"commit\nstep {step}", BLUE)
        d.box(290, y, 88, 46, "tree\n(root)", GREEN)
        d.arrow((116, y + 15), (149, y + 15))
        d.arrow((254, y + 22), (289, y + 22))
    d.arrow((202, 70), (202, 213))
    d.words(210, 146, "parent")
    d.box(420, 24, 96, 40, "optimizer", GREEN)
    d.box(420, 124, 96, 40, "model", GREEN)
    d.box(420, 214, 96, 40, "optimizer", GREEN)
    d.arrow((378, 44), (419, 44))
    d.arrow((378, 54), (419, 132))
    d.arrow((378, 224), (419, 158))
    d.arrow((378, 238), (419, 234))
    for y in (24, 124, 214):
        d.box(550, y, 60, 40, "node", GREY)
        d.arrow((516, y + 20), (549, y + 20))
        for place in range(3):
            d.box(650, y - 8 + 20 * place, 46, 16, "", BLUE)
        d.arrow((610, y + 20), (649, y + 20))
    d.words(650, 284, "chunks")
    d.words(
        24,
        320,
        "Every arrow is the hash of what it points to. The model did not change between the steps, so both",
    )
    d.words(
        24, 340, "roots point to one subtree, and the newer commit adds nothing for it: no chunk, no node, no tree."
    )
    d.words(24, 372, "Only branches and tags ever move. Everything else is written once and never changed.")
    return d


def prune() -> Drawing:
    d = Drawing(720, 290, "A line of nine commits under a policy: which are kept, and why")
    reasons = ["first in\n0–49", "", "best\nloss", "", "", "first in\n50–99", "", "last 2", "last 2\ntip"]
    for place, reason in enumerate(reasons):
        x = 24 + 76 * place
        d.box(x, 80, 56, 44, f"step\n{place * 10}", GREEN, gone=not reason)
        if place:
            d.arrow((x, 102), (x - 19, 102))
        for line, text in enumerate(reason.split("\n") if reason else ()):
            d.words(x + 28, 48 + 16 * line, text, INK, "middle")
    d.words(24, 26, 'Keep(last=2, every_steps=50, best={"loss": ("min", 1)})', INK)
    d.words(24, 152, "model", INK)
    d.words(24, 192, "optimizer", INK)
    for place, reason in enumerate(reasons):
        x = 24 + 76 * place
        if reason:
            d.box(x, 160, 56, 14, "", BLUE)
            d.box(x, 200, 56, 14, "", ORANGE, gone=place != 8)
    d.words(
        24,
        242,
        'With parts={"optimizer": Keep(last=1)} the older ones keep their model, but not their optimizer.',
    )
    d.words(24, 266, "Dashed: released. The commits stay in the log; their bytes come back with gc.")
    return d


def gc() -> Drawing:
    d = Drawing(720, 330, "gc walks from branches, tags and the reflog, and deletes what it did not reach")
    d.words(24, 30, "where it starts", INK)
    for y, name, gone in ((44, "branches", False), (96, "tags", False), (148, "reflog", False)):
        d.box(24, y, 92, 34, name, ORANGE, gone=gone)
    d.words(180, 30, "commits", INK)
    d.words(340, 30, "trees, nodes", INK)
    d.words(520, 30, "chunks", INK)
    rows = ((44, False, False), (96, False, False), (148, False, True), (216, True, True))
    for y, lost, released in rows:
        d.box(180, y, 92, 34, "lost" if lost else ("pruned" if released else "kept"), BLUE, gone=lost)
        d.box(340, y, 92, 34, "", GREEN, gone=released)
        d.arrow((272, y + 17), (339, y + 17), gone=released)
        for place in range(4):
            d.box(520 + 44 * place, y, 36, 34, "", BLUE, gone=released and (lost or place != 1))
        d.arrow((432, y + 17), (519, y + 17), gone=released)
    for y in (61, 113, 165):
        d.arrow((116, y), (179, y))
    d.arrow((432, 120), (476, 140), (582, 140), (582, 147))
    d.words(
        24,
        284,
        "Dashed is not reached, and deleted. A pruned commit stays, without its state. A chunk that is still",
    )
    d.words(
        24,
        304,
        "used by any state stays too, whoever wrote it. What others publish meanwhile is walked as well.",
    )
    return d


DRAWINGS = {"chunks": chunks, "commits": commits, "prune": prune, "gc": gc}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (Path(__file__).parent / f"{name}.svg").write_text(draw().svg())
