"""What a reader says of a store that it cannot read."""

from __future__ import annotations


class FormatError(Exception):
    """The store is not as the page says."""


class NewerError(FormatError):
    """The store holds what this reader does not know."""


def need(holds: bool, problem: str) -> None:
    if not holds:
        raise FormatError(problem)
