"""What the demo trains and for how long: handed to its processes as JSON, so that all of them do the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """One demo.

    steps: optimizer updates of the run that is killed and of its reference; a commit every `every`; killed inside the
    commit of step `killed_at`. late: updates between commits in the acts after that. warmup: updates until the learning
    rate is full.
    """

    steps: int
    every: int
    killed_at: int
    late: int
    width: int = 192
    layers: int = 6
    heads: int = 6
    context: int = 64
    batch: int = 8
    rate: float = 2e-3
    warmup: int = 10
    dropout: float = 0.1
    corpus: int = 2_000_000
    seed: int = 20

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Plan:
        return cls(**json.loads(text))


def make_plan(steps: int, layers: int = 6) -> Plan:
    """A plan for so many updates, 4 or more: some twelve commits, the one at about two thirds torn."""
    every = max(steps // 12, 1)
    return Plan(
        steps=steps,
        every=every,
        killed_at=steps * 2 // 3 // every * every,
        late=max(every // 5, 1),
        layers=layers,
    )
