"""Figures as people read them: three digits and a unit."""

from __future__ import annotations

from benchmarks.measure import BYTES, RATE, SECONDS, SHARE, Spread


def number(value: float) -> str:
    """Three digits, and no more zeros than it takes."""
    if value == 0:
        return "0"
    for digits, least in ((0, 99.95), (1, 9.995), (2, 0.9995)):
        if abs(value) >= least:
            return f"{value:.{digits}f}"
    return f"{value:.2f}" if abs(value) >= 0.0995 else f"{value:.3f}"


def amount(value: float, unit: str) -> str:
    """A figure with its unit: seconds as ms or s, bytes in decimal units, shares in percent."""
    if unit == SECONDS:
        return f"{number(value)} s" if abs(value) >= 0.9995 else f"{number(value * 1e3)} ms"
    if unit == BYTES:
        for factor, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if abs(value) >= factor:
                return f"{number(value / factor)} {name}"
        return f"{value:.0f} B"
    if unit == SHARE:
        return f"{number(value * 100)} %"
    return f"{number(value)} {RATE}" if unit == RATE else number(value)


def spread(found: Spread, unit: str) -> str:
    """The median, and least and most behind it."""
    if found.least == found.most:
        return amount(found.median, unit)
    return f"{amount(found.median, unit)} ({amount(found.least, unit)} – {amount(found.most, unit)})"
