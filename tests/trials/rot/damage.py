"""One damage to the files of a store, for each seed another; spread over every kind of page, frame and record."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from casckpt.store.folder import EXAMINED
from casckpt.store.format import COUNTER_KEY, FORMAT_KEY
from casckpt.store.layout import BRANCH, HEAD_SIZE, PAGE
from casckpt.store.nodes import read_nodes
from tests.history.pages import SIZE, File
from tests.trials.rot.stores import Template

_MAGIC: Final = b"\xf1\x43\x4b\x46"
_SECTOR: Final = 512
RECORD: Final = "a record"


class Map:
    """What is where in a data file."""

    def __init__(self, path: Path, data: bytes) -> None:
        named = File(path).pages()
        self.pages: dict[str, list[int]] = {"head": [0, 1]}
        for number, name in named.items():
            sort = name
            if not name.endswith("value"):
                flags = PAGE.unpack_from(data, number * SIZE)[2]
                sort = f"{name} {'branch' if flags == BRANCH else 'leaf'}"
            elif number * SIZE + PAGE.size <= len(data) and data[number * SIZE :][:8] == number.to_bytes(8, "little"):
                sort = f"{name}, first page"
            self.pages.setdefault(sort, []).append(number)
        self._used = bytearray(len(data))
        for at in (0, SIZE):
            self._used[at : at + HEAD_SIZE] = bytes((1,)) * HEAD_SIZE
        for number, name in named.items():
            page = data[number * SIZE : (number + 1) * SIZE]
            _, _, _, lower, upper = PAGE.unpack_from(page)
            whole = name.endswith("value")
            for start, end in ((0, SIZE),) if whole else ((0, lower), (upper, SIZE)):
                self._used[number * SIZE + start : number * SIZE + end] = bytes((1,)) * (end - start)
        unused = sorted(set(range(2, len(data) // SIZE)) - named.keys())
        if unused:
            self.pages["unused"] = unused
        self.records = {
            sort: [span for number in self.pages[f"{sort} leaf"] for span in _records(data, number)]
            for sort in ("ref", "reflog", "mark", "figures", "meta")
            if f"{sort} leaf" in self.pages
        }
        self.frames: dict[str, list[int]] = {}
        at = data.find(_MAGIC)
        while at >= 0:
            kind, codec = data[at + 5], data[at + 6]
            if at // SIZE in named and 1 <= kind <= 4 and codec <= 8:
                self.frames.setdefault(f"frame of kind {kind} with codec {codec}", []).append(at)
            at = data.find(_MAGIC, at + 1)

    def is_idle(self, at: int) -> bool:
        """Whether a byte is in no page that is in use, or between what such a page holds."""
        return not self._used[at]


def _records(data: bytes, number: int) -> Iterator[tuple[int, int]]:
    """Where each record of a leaf page is, key and value, and how long, of those that have a check."""
    page = data[number * SIZE : (number + 1) * SIZE]
    for entry in read_nodes(page)[1]:
        if entry.key not in (FORMAT_KEY, COUNTER_KEY):
            record = entry.key + entry.value
            yield number * SIZE + page.index(record), len(record)


def damage(chance: random.Random, template: Template, known: Map, path: Path) -> str:
    """Damage the store at `path`, which is as the template says; returns how."""
    acts: list[tuple[int, Callable[[random.Random, Template, Map, bytearray], str]]] = [
        (8, _flip_in_page),
        (6, _flip_in_frame),
        (2, flip_in_record),
        (3, _flip_anywhere),
        (1, _zeroed),
        (1, _shifted),
        (1, _swapped),
        (2, _garbage),
        (2, _stale),
        (1, _cut),
    ]
    if chance.randrange(20) == 0:
        return _beside(chance, path)
    act = chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
    data = bytearray(template.files["data.mdb"])
    how = act(chance, template, known, data)
    (path / "data.mdb").write_bytes(data)
    return how


def cut(chance: random.Random, template: Template, known: Map, path: Path) -> str:
    """As `damage`, but always by the end of the file."""
    data = bytearray(template.files["data.mdb"])
    how = _cut(chance, template, known, data)
    (path / "data.mdb").write_bytes(data)
    return how


def flip(data: bytearray, bit: int) -> None:
    data[bit // 8] ^= 1 << bit % 8


def _page(chance: random.Random, known: Map) -> tuple[str, int]:
    sort = chance.choice(sorted(known.pages))
    return sort, chance.choice(known.pages[sort])


def _flip_in_page(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    sort, number = _page(chance, known)
    within = SIZE if chance.randrange(2) else 200 if number < 2 else PAGE.size + 32  # what is in front says most
    bit = (number * SIZE + chance.randrange(within)) * 8 + chance.randrange(8)
    flip(data, bit)
    return f"bit {bit}, {sort}"


def _flip_in_frame(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    sort = chance.choice(sorted(known.frames))
    at = chance.choice(known.frames[sort])
    part = chance.choice(["head", "payload"])
    offset = chance.randrange(24) if part == "head" else 24 + chance.randrange(400)
    bit = min((at + offset) * 8 + chance.randrange(8), 8 * len(data) - 1)
    flip(data, bit)
    return f"bit {bit}, {part} of a {sort}"


def flip_in_record(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    sort = chance.choice(sorted(known.records))
    at, length = chance.choice(known.records[sort])
    bit = at * 8 + chance.randrange(8 * length)
    flip(data, bit)
    return f"bit {bit}, {RECORD} of {sort}"


def _flip_anywhere(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    bit = chance.randrange(8 * len(data))
    flip(data, bit)
    return f"bit {bit}"


def _zeroed(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    sort, number = _page(chance, known)
    data[number * SIZE : (number + 1) * SIZE] = bytes(SIZE)
    return f"page {number} zeroed, {sort}"


def _shifted(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    sort, number = _page(chance, known)
    by = chance.choice([1, 2, 8, 16, 512, SIZE - 1])
    page = data[number * SIZE : (number + 1) * SIZE]
    data[number * SIZE : (number + 1) * SIZE] = page[by:] + page[:by]
    return f"page {number} shifted by {by}, {sort}"


def _swapped(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    sort, a = _page(chance, known)
    other, b = _page(chance, known) if chance.randrange(2) else (sort, chance.choice(known.pages[sort]))
    first, second = slice(a * SIZE, (a + 1) * SIZE), slice(b * SIZE, (b + 1) * SIZE)
    data[first], data[second] = data[second], data[first]
    if chance.randrange(2) and min(a, b) > 1:  # each says that it is where it is
        data[a * SIZE : a * SIZE + 8], data[b * SIZE : b * SIZE + 8] = a.to_bytes(8, "little"), b.to_bytes(8, "little")
    return f"pages {a} and {b} swapped, {sort} and {other}"


def _garbage(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    sort, number = _page(chance, known)
    at = number * SIZE + _SECTOR * chance.randrange(SIZE // _SECTOR)
    data[at : at + _SECTOR] = chance.choice([chance.randbytes(_SECTOR), bytes(_SECTOR), b"\xff" * _SECTOR])
    return f"a sector at {at}, {sort}"


def _stale(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    changed = [
        number
        for number in range(min(len(data), len(template.stale)) // SIZE)
        if data[number * SIZE :][:SIZE] != template.stale[number * SIZE :][:SIZE]
    ]
    chosen = chance.sample(changed, min(len(changed), chance.choice([1, 1, 2, 5])))
    for number in chosen:
        data[number * SIZE : (number + 1) * SIZE] = template.stale[number * SIZE : (number + 1) * SIZE]
    return f"pages {chosen} as they were earlier"


def _cut(chance: random.Random, template: Template, known: Map, data: bytearray) -> str:
    length = max(0, SIZE * chance.randrange(len(data) // SIZE + 1) + chance.choice([-1, 0, 1]))
    del data[length:]
    return f"cut to {length} bytes"


def _beside(chance: random.Random, path: Path) -> str:
    """A damage to the small files beside it."""
    name = chance.choice(["mark", EXAMINED, "gate"])
    data = bytearray((path / name).read_bytes()) if (path / name).exists() else bytearray()
    if data and chance.randrange(3):
        bit = chance.randrange(8 * len(data))
        flip(data, bit)
        how = f"bit {bit} of {name}"
    else:
        data = bytearray(chance.randbytes(chance.randrange(200)))
        how = f"garbage in {name}"
    (path / name).write_bytes(data)
    return how
