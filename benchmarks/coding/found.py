"""All figures of a run, as one thing that goals are judged on and that is kept as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.coding.speed import SPEED, Coded, Measured
from benchmarks.measure import SHARE, Series

FORMAT = 1


@dataclass(slots=True)
class Found:
    """made: the day. machine: what `machine.describe` says. streams: by name. stores: quantity, then system.
    missing: coders that are not installed. notes: by row of the stores, what a reader must know."""

    made: str
    machine: dict[str, str]
    settings: dict[str, Any]
    streams: dict[str, Measured] = field(default_factory=dict)
    stores: dict[str, dict[str, Series]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path, goals: list[dict[str, Any]]) -> None:
        """Keep it. What was judged is written along for people and other programs; it is not read back."""
        kept = {
            "format": FORMAT,
            "made": self.made,
            "machine": self.machine,
            "settings": self.settings,
            "streams": {name: one.to_dict() for name, one in self.streams.items()},
            "stores": {
                quantity: {name: {"unit": one.unit, "values": list(one.values)} for name, one in systems.items()}
                for quantity, systems in self.stores.items()
            },
            "missing": self.missing,
            "notes": self.notes,
            "goals": goals,
        }
        path.write_text(json.dumps(kept, indent=1) + "\n")


def read(path: Path) -> Found:
    """What an earlier run kept.

    Raises:
        ValueError: it is none, or of another format.
    """
    kept = json.loads(path.read_text())
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        raise ValueError(f"{path} is not a file of this benchmark, or of another version of it")
    streams = {name: _measured(name, one) for name, one in kept["streams"].items()}
    stores = {
        quantity: {name: Series(one["unit"], tuple(one["values"])) for name, one in systems.items()}
        for quantity, systems in kept["stores"].items()
    }
    return Found(kept["made"], kept["machine"], kept["settings"], streams, stores, kept["missing"], kept["notes"])


def _measured(name: str, kept: dict[str, Any]) -> Measured:
    coded = {
        coder: Coded(
            one["ratio"], {what: Series(SPEED, tuple(values)) for what, values in one["speeds"].items()}, one["kinds"]
        )
        for coder, one in kept["coded"].items()
    }
    return Measured(name, kept["bytes"], coded, Series(SHARE, tuple(kept["choosing"])))
