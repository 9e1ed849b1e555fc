"""Names of tensors in a file: their paths as people write them, "model.layers.0.weight"; no two are the same."""

from __future__ import annotations

from casckpt.objects.paths import unescape

# A longer name is cut: zip files cannot hold it, and nobody types it.
_LONGEST = 1000
ROOT = "state"
"""The name of a state that is one tensor."""


class Names:
    """Gives each path a name. reserved: names that the format keeps for itself."""

    def __init__(self, reserved: frozenset[str]) -> None:
        self._taken: set[str] = set(reserved)

    def name(self, path: str) -> str:
        """The path without escapes: a key "a.b" is so called. If that name is taken, the path with its escapes."""
        plain = _printable(unescape(path))
        for candidate in (plain, _printable(path)):
            if candidate not in self._taken:
                return self._take(candidate)
        number = 2
        while f"{plain}~{number}" in self._taken:
            number += 1
        return self._take(f"{plain}~{number}")

    def _take(self, name: str) -> str:
        self._taken.add(name)
        return name


def _printable(path: str) -> str:
    """Text that JSON, UTF-8 and zip can hold: without lone surrogates and without the end-of-text of C."""
    text = path.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text[:_LONGEST] or ROOT
