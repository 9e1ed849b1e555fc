"""What passes between the process that measures a row, the one that reports, and the file that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Series

# A state smaller than this is asked for to see that a row runs; then everything else about it is small as well.
TINY_STATE = 20_000_000


@dataclass(frozen=True, slots=True)
class Setting:
    """How a row is to be measured. size: bytes of the state. folder: an empty one on the disk that is measured."""

    size: int
    repeats: int
    dtype: str
    quick: bool
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "repeats": self.repeats,
            "dtype": self.dtype,
            "quick": self.quick,
            "folder": str(self.folder),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Setting:
        return cls(**{**found, "folder": Path(found["folder"])})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of a row: quantity, system, series. missing: why a peer has none. note: what a reader must know."""

    series: dict[str, dict[str, Series]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {
            "series": {
                quantity: {
                    name: {"unit": series.unit, "values": list(series.values)} for name, series in systems.items()
                }
                for quantity, systems in self.series.items()
            },
            "missing": self.missing,
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Outcome:
        return cls(
            {
                quantity: {name: Series(one["unit"], tuple(one["values"])) for name, one in systems.items()}
                for quantity, systems in found["series"].items()
            },
            dict(found["missing"]),
            found["note"],
        )
