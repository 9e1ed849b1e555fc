"""What shows that a race was one: how often a child met what another had just done, told by casckpt's own steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

# What a child may see, in words that outcomes are named by.
PUT_BACK: Final = "a save put back what gc had taken"
SPARED: Final = "gc spared what a save came to need"
ALONE: Final = "the base of a save's delta was gone"
BASE: Final = "gc left a dead base in peace"

HIT: Final = (PUT_BACK, SPARED)
BASES: Final = (ALONE, BASE)


def witness(seen: Counter[str]) -> None:
    """Have this process count what it meets."""
    from casckpt.history import gc
    from casckpt.history.ingest import Ingest

    missing, secure, alone = Ingest._missing, Ingest._secure, Ingest._alone
    delete, delete_chunk = gc._Sweep._delete, gc.delete_chunk

    def put_back(ingest: Ingest, now: Any) -> Iterator[Any]:
        for one in missing(ingest, now):
            seen[PUT_BACK] += 1
            yield one

    def secured(ingest: Ingest, written: Any) -> Any:
        lost = secure(ingest, written)
        seen[PUT_BACK] += len(lost)
        return lost

    def by_itself(ingest: Ingest, *given: Any) -> Any:
        seen[ALONE] += 1
        return alone(ingest, *given)

    def spared(sweep: Any, writer: Any, space: Any, key: bytes, *more: Any) -> None:
        seen[SPARED] += sweep._live.holds(space, key)
        delete(sweep, writer, space, key, *more)

    def left(writer: Any, oid: bytes) -> bool:
        gone = delete_chunk(writer, oid)
        seen[BASE] += not gone
        return gone

    Ingest._missing, Ingest._secure, Ingest._alone = put_back, secured, by_itself  # type: ignore[method-assign]
    gc._Sweep._delete, gc.delete_chunk = spared, left  # type: ignore[method-assign]
