"""Paths into a state: keys joined by dots, and the globs that choose among them.

A dot or backslash in a key is escaped by a backslash: the key "a.b" under "model" is `model.a\\.b`. A glob's `*`
crosses dots; a glob is tried against the path as written and against the path without its escapes, so that
`model.encoder.weight` finds the key "encoder.weight" under "model".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from typing import Final, Literal

from casckpt.errors import CorruptObjectError
from casckpt.limits import MAX_DEPTH
from casckpt.objects.bounded import bounded
from casckpt.objects.tree import Fetch, shallow
from casckpt.objects.values import MAPPINGS, METADATA, Map, TensorRecord, Typed, Value

_KEY: Final = re.compile(r"(?:^|\.)((?:[^.\\]|\\.)*)", re.DOTALL)


def escape(key: str) -> str:
    """One key as it stands in a path: "a.b" -> "a\\.b"."""
    return key.replace("\\", "\\\\").replace(".", "\\.")


def unescape(path: str) -> str:
    """A path with its escapes taken away: "a\\.b" -> "a.b"."""
    return re.sub(r"\\(.)", r"\1", path)


def keys(path: str) -> list[str]:
    """The keys of a path as they stand in it: "model.a\\.b.0" -> ["model", "a\\.b", "0"]."""
    return [found[1] for found in _KEY.finditer(path)]


def readable(item: object) -> str:
    """`repr`, except where that is refused: Python does not write out integers of thousands of digits."""
    try:
        return repr(item)
    except ValueError:
        return hex(item) if isinstance(item, int) else f"a {type(item).__name__} with a very long number"


def child(path: str, key: Value) -> str:
    """The path of what stands under `key` at `path`: ("model", "a.b") -> "model.a\\.b"; ("state", 0) -> "state.0"."""
    if not isinstance(key, str):
        key = f"{key.name}({readable(key.value)})" if isinstance(key, Typed) else readable(key)
    name = escape(key)
    return f"{path}.{name}" if path else name


def children(path: str, value: Value) -> Iterator[tuple[str, Value]]:
    """What stands directly in a container, with its path. A Typed is seen through."""
    while isinstance(value, Typed):
        value = value.value
    if isinstance(value, Map):
        for key, item in value.entries:
            yield child(path, key), item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield child(path, index), item


def leaves(value: Value, path: str = "") -> Iterator[tuple[str, Value]]:
    """Every leaf of an expanded value with its path, in order. An empty container is a leaf."""
    empty = True
    for inner_path, inner in children(path, value):
        empty = False
        if isinstance(inner, TensorRecord):  # of which there may be tens of thousands
            yield inner_path, inner
        else:
            yield from leaves(inner, inner_path)
    if empty:
        yield path, value


def find(value: Value, path: str, fetch: Fetch) -> list[tuple[str, Value]]:
    """What stands at exactly this path, or is a path without its escapes; only what leads there is fetched.

    Several, where keys of different types are written alike, or where dots in keys are. Each comes with its path as it
    is written in full, and seen through every Typed, as `children` does.
    """
    found = list(_find(value, "", path, fetch, 0))
    return [one for one in found if one[0] == path] or found


def _find(value: Value, at: str, path: str, fetch: Fetch, depth: int) -> Iterator[tuple[str, Value]]:
    if depth > MAX_DEPTH:
        raise CorruptObjectError(f"a tree is nested deeper than {MAX_DEPTH} levels")
    value = shallow(value, fetch)
    if isinstance(value, Typed):
        yield from _find(value.value, at, path, fetch, depth + 1)
        return
    if path in (at, unescape(at)):
        yield at, value
    for inner_path, inner in children(at, value):
        if path in (inner_path, plain := unescape(inner_path)) or path.startswith((f"{inner_path}.", f"{plain}.")):
            yield from _find(inner, inner_path, path, fetch, depth + 1)


class Globs:
    """A choice of paths by globs.

    `*` is any run of characters, `?` any one, `[ab]` one of these; a backslash takes the next character as it is.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self._written = [_regex(pattern, escaped=True) for pattern in self.patterns]
        self._plain = [_regex(pattern, escaped=False) for pattern in self.patterns]
        self._heads = [_literal_head(pattern) for pattern in self.patterns]

    @classmethod
    def of(cls, patterns: Iterable[str] | str | None) -> Globs | None:
        """The globs that a caller gave: one, several, or None for no choice."""
        return None if patterns is None else cls([patterns] if isinstance(patterns, str) else patterns)

    def match(self, path: str) -> bool:
        """Whether one of the globs takes this path (and with it everything under it)."""
        plain = unescape(path)
        return any(regex.fullmatch(path) for regex in self._written) or any(
            regex.fullmatch(plain) for regex in self._plain
        )

    def may_match_under(self, path: str) -> bool:
        """False only where no path under this one can match, judged by what stands before the first wildcard."""
        under = unescape(path) + "." if path else ""
        return any(head.startswith(under) or (wild and under.startswith(head)) for head, wild in self._heads)


@lru_cache(maxsize=256)
def _regex(pattern: str, *, escaped: bool) -> re.Pattern[str]:
    """A glob as a regex that takes time in proportion to its length and the path's, whatever these are.

    escaped: for paths as they are written, with escapes where the glob has them; else for paths without their escapes.
    """
    runs: list[str] = []  # what stands between the stars
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "\\" and at < len(pattern):
            # an escaped dot of a path is written in a glob as it is written in the path
            literal = escape(pattern[at]) if escaped else pattern[at]
            out.append(re.escape(literal))
            at += 1
        elif char == "*":
            runs.append("".join(out))
            out = []
        elif char == "?":
            out.append(".")
        elif char == "[" and (end := pattern.find("]", at + 1)) > 0:
            out.append(_char_class(pattern[at:end]))
            at = end + 1
        else:
            out.append(re.escape(char))
    last = "".join(out)
    if not runs:
        return re.compile(last, re.DOTALL)
    # the first place where a run fits is as good as any later one, so that it is never looked for again
    middle = "".join([f"(?>.*?{run})" for run in runs[1:] if run])
    return re.compile(f"{runs[0]}{middle}.*{last}", re.DOTALL)


def _char_class(inner: str) -> str:
    """What stands between brackets, as a regex: "a-c!" -> "[a-c!]", "!a" -> "[^a]". A backward range holds nothing."""
    negated = inner.startswith("!")
    found = re.findall(r"(.)-(.)|(.)", inner[1:] if negated else inner, re.DOTALL)
    parts = [re.escape(one) if one else f"{re.escape(a)}-{re.escape(b)}" for a, b, one in found if one or a <= b]
    if not parts:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{''.join(parts)}]"


def _literal_head(pattern: str) -> tuple[str, bool]:
    """What stands before the first wildcard, without escapes, and whether there is a wildcard."""
    found = re.match(r"(?:[^*?\[\\]|\\.)*", pattern, re.DOTALL)
    head = found.group() if found else ""
    return unescape(head), len(head) < len(pattern)


class _Nothing(Enum):
    NOTHING = 0


_NOTHING: Final = _Nothing.NOTHING


def select(value: Value, globs: Globs, fetch: Fetch) -> Value:
    """The part of a value that the globs take, its nesting kept; what is left out is not fetched.

    Keys of mappings and items of sequences are dropped where nothing under them is taken. Every other typed value (a
    sparse tensor, a set, a dataclass) is taken whole or not at all. METADATA goes with whatever is kept beside it. A
    state from which nothing is taken gives an empty Map.
    """
    found = _select(value, "", globs, bounded(fetch), 0)
    return Map(()) if found is _NOTHING else found


def _select(value: Value, path: str, globs: Globs, fetch: Fetch, depth: int) -> Value | Literal[_Nothing.NOTHING]:
    if depth > MAX_DEPTH:
        raise CorruptObjectError(f"a tree is nested deeper than {MAX_DEPTH} levels")
    if globs.match(path):
        return value
    if not globs.may_match_under(path):
        return _NOTHING
    value = shallow(value, fetch)
    if isinstance(value, Typed):
        inner = shallow(value.value, fetch)
        kept = _select(inner, path, globs, fetch, depth + 1)
        if kept is _NOTHING:
            return _NOTHING
        return Typed(value.name, kept) if value.name.partition(":")[0] in MAPPINGS else value
    if isinstance(value, Map):
        chosen = [
            (key, item if key == METADATA else _select(item, child(path, key), globs, fetch, depth + 1))
            for key, item in value.entries
        ]
        pairs = tuple([(key, item) for key, item in chosen if item is not _NOTHING])
        return Map(pairs) if any(key != METADATA for key, _ in pairs) else _NOTHING
    if isinstance(value, (list, tuple)):
        tried = [_select(item, child(path, index), globs, fetch, depth + 1) for index, item in enumerate(value)]
        items = [item for item in tried if item is not _NOTHING]
        if not items:
            return _NOTHING
        return items if isinstance(value, list) else tuple(items)
    return _NOTHING
