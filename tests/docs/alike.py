"""Whether an output is what a page shows, but for what changes from run to run: ids, ages, dates, durations, places.

Nothing is left out: what changes is replaced by its kind, and sizes must be near.
"""

from __future__ import annotations

import re

_PATTERNS = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{8,64}\b(?!\.)"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?"), "TIME"),
    (re.compile(r"\b[\d,.]+ (?:[KMGT]i)?B/s"), "RATE"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:ms|s|min|h|d|w|y)\b(?!\w)"), "SPAN"),
    (re.compile(r"\bprocess \d+\b"), "process N"),
    (re.compile(r"[─━╸╺╴-]{3,}"), "RULE"),
)
_SIZE = re.compile(r"\b(\d+(?:\.\d+)?) (B|KiB|MiB|GiB)\b")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# Sizes hold what a host's name, a time or a version of zstd changes.
_NEAR = 0.15
_FEW = 64


def normal(text: str, *, numbers_vary: bool = False) -> str:
    """The text with whatever changes replaced by its kind, and blanks taken together."""
    for pattern, kind in _PATTERNS:
        text = pattern.sub(kind, text)
    text = _SIZE.sub("SIZE", text)
    if numbers_vary:
        text = _NUMBER.sub("N", text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def sizes(text: str) -> list[float]:
    for pattern, kind in _PATTERNS:
        text = pattern.sub(kind, text)
    return [float(number) * _UNITS[unit] for number, unit in _SIZE.findall(text)]


def alike(shown: str, real: str, *, numbers_vary: bool = False) -> bool:
    """Whether a reader who sees `real` would say that it is what he was shown."""
    if normal(shown, numbers_vary=numbers_vary) != normal(real, numbers_vary=numbers_vary):
        return False
    if numbers_vary:
        return True
    return all(
        abs(one - other) <= max(_FEW, _NEAR * max(one, other))
        for one, other in zip(sizes(shown), sizes(real), strict=True)
    )
