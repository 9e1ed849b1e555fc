"""Bases that several chunks of one load lie over: each is decoded once, and kept until the last of these has had it.

No more is kept than a bound; past it a base is decoded again rather than have a load hold a second state.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from casckpt.history.bases import base_of
from casckpt.limits import MIB
from casckpt.objects.chain import Chain
from casckpt.store.protocol import Reader, Space

# Bytes of decoded bases that are held at a time.
_MOST: Final = 64 * MIB
# Chunks that are looked at for shared bases: a look at a million takes seconds.
_LOOKED_AT: Final = 1 << 20


class _Shared:
    """A base on its way: whoever comes first decodes it, the others wait."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.lock = threading.Lock()
        self.raw: memoryview | None = None


class SharedBases:
    """Those of one load. Its counts are made in one thread; then it is for several."""

    def __init__(self, reader: Reader, chunks: Iterable[bytes]) -> None:
        self._lock = threading.Lock()
        self._held = 0
        self._shared: dict[bytes, _Shared] = {}
        if not reader.count(Space.BASE):
            return
        wanted: Counter[bytes] = Counter()
        seen: set[bytes] = set()
        for oid, uses in Counter(chunks).items():
            at = oid
            while at not in seen and len(seen) < _LOOKED_AT:
                seen.add(at)
                base = base_of(reader, at)
                if base is None:
                    break
                wanted[base] += uses
                at, uses = base, 1  # what is shared is decoded once, and so is what it lies over
        self._shared = {base: _Shared(count) for base, count in wanted.items() if count > 1}

    def cut(self, chain: Chain, decode: Callable[[Chain], memoryview]) -> Chain:
        """A chain that ends where it comes to a base that is shared, with that one's bytes; decoded now, if need be."""
        for at in range(1, len(chain.links)):
            shared = self._shared.get(chain.links[at].head.id)
            if shared is None:
                continue
            with shared.lock:
                raw = shared.raw
                if raw is None:
                    raw = decode(self.cut(Chain(chain.links[at:], chain.root), decode))
                    self._keep(shared, raw)
                shared.left -= 1
                if shared.left <= 0 and shared.raw is not None:
                    self._give_up(shared)
            return Chain(chain.links[:at], raw)
        return chain

    def _keep(self, shared: _Shared, raw: memoryview) -> None:
        with self._lock:
            if shared.left > 1 and self._held + len(raw) <= _MOST:
                self._held += len(raw)
                shared.raw = raw

    def _give_up(self, shared: _Shared) -> None:
        with self._lock:
            if shared.raw is not None:
                self._held -= len(shared.raw)
                shared.raw = None
