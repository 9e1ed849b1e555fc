"""Whether an output is what a page shows, but for what changes from run to run: ids, ages, dates, durations, places.

Nothing is left out: what changes is replaced by its kind. Sizes and what one is of another must be near, and so must
what training came to: the last digits of floats are another machine's own. An id is another one each time, and the same
one all over a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_ID = re.compile(r"\b[0-9a-f]{8,64}\b(?!\.)")  # of letters alone too: one in 2,557 is
_SHORT = 8
_PATTERNS = (
    (_UUID, "UUID"),
    (_ID, "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?"), "TIME"),
    (re.compile(r"\b[\d,.]+ (?:[KMGT]i)?B/s"), "RATE"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:ms|s|min|h|d|w|y)\b(?!\w)"), "SPAN"),
    (re.compile(r"\bprocess \d+\b"), "process N"),
    (re.compile(r"\b[\d,]+ pages\b"), "N pages"),
    (re.compile(r"\(\d+%\)"), "(SHARE)"),
    (re.compile(r"[─━╸╺╴-]{3,}"), "RULE"),
)
_SIZE = re.compile(r"\b(\d+(?:\.\d+)?) (B|KiB|MiB|GiB)\b")
# What a size is of another one.
_RATIO = re.compile(r"\b\d+(?:\.\d+)?(?= \(logical / stored\)| times (?:less|fewer)| bytes for each| of raw)")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?:e[+-]\d+)?(?![\w.])")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# Sizes hold what a host's name, a time or a version of zstd changes.
_NEAR = 0.15
_FEW = 64
_CLOSE = 0.02
_CUT = 4


def normal(text: str) -> str:
    """The text with whatever changes replaced by its kind, and blanks taken together."""
    for pattern, kind in _PATTERNS:
        text = pattern.sub(kind, text)
    text = _DECIMAL.sub("DECIMAL", _SIZE.sub("SIZE", text))
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def _words(text: str) -> list[str]:
    """The words of a text with every number replaced, in no order: numbers of other lengths fold tables elsewhere."""
    return sorted(_NUMBER.sub("N", normal(text)).replace("DECIMAL", "N").split())


def _figures(text: str) -> tuple[list[float], list[float]]:
    """Sizes in bytes with ratios as if of MiB, and decimals."""
    for pattern, kind in _PATTERNS:
        text = pattern.sub(kind, text)
    sizes = [float(number) * _UNITS[unit] for number, unit in _SIZE.findall(text)]
    sizes += [float(number) * _UNITS["MiB"] for number in _RATIO.findall(text)]
    return sizes, [float(number) for number in _DECIMAL.findall(_RATIO.sub("", _SIZE.sub("", text)))]


def alike(shown: str, real: str, *, numbers_vary: bool = False) -> bool:
    """Whether a reader who sees `real` would say that it is what he was shown."""
    if numbers_vary:
        return _words(shown) == _words(real)
    lines = [normal(text).splitlines() for text in (shown, real)]
    if len(lines[0]) != len(lines[1]) or not all(map(_is_line_alike, *lines)):
        return False
    (sizes, decimals), (real_sizes, real_decimals) = _figures(shown), _figures(real)
    return all(
        abs(one - other) <= max(_FEW, _NEAR * max(one, other)) for one, other in zip(sizes, real_sizes, strict=True)
    ) and all(abs(one - other) <= _CLOSE * one for one, other in zip(decimals, real_decimals, strict=True))


def _is_line_alike(shown: str, real: str) -> bool:
    """Whether two lines are one, or would be, had an age of two digits not cut one of them a little earlier."""
    if shown == real:
        return True
    (shown, cut, behind), (real, real_cut, real_behind) = shown.partition("…"), real.partition("…")
    if not (cut or real_cut) or behind != real_behind or abs(len(shown) - len(real)) > _CUT:
        return False
    return shown.startswith(real) or real.startswith(shown)


def ids_agree(outputs: Iterable[tuple[str, str]]) -> bool:
    """Whether the ids that a page shows stand for one another as those that came out do. outputs: shown, and real."""
    there: dict[str, str] = {}
    back: dict[str, str] = {}
    for shown, real in outputs:
        for one, other in zip(_ids(shown), _ids(real), strict=False):
            if there.setdefault(one, other) != other or back.setdefault(other, one) != one:
                return False
    return True


def _ids(text: str) -> list[str]:
    """The ids in a text, as far as people see them."""
    return [found[:_SHORT] for found in _ID.findall(_UUID.sub("", text))]
