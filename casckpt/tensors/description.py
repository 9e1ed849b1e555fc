"""What a commit says of itself beside its state, checked before anything is written. torch is not imported here."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

from casckpt.errors import StateError
from casckpt.history.plain import to_map
from casckpt.limits import MAX_MESSAGE, MAX_METRIC_NAMES, MAX_METRICS
from casckpt.objects.values import Map


@dataclass(frozen=True, slots=True)
class Description:
    """What a commit says of itself beside its state."""

    message: str
    step: int | None
    metrics: tuple[tuple[str, float], ...]
    meta: Map

    @classmethod
    def checked(
        cls, message: str, step: int | None, metrics: Mapping[str, float] | None, meta: Mapping[str, object] | None
    ) -> Description:
        """The description, once every bound has been checked.

        Raises:
            StateError, UnsupportedTypeError
        """
        if len(_encoded(message, "message")) > MAX_MESSAGE:
            raise StateError(f"a message may have {MAX_MESSAGE} bytes", path="message", remedy="put it into the state")
        numbers = tuple([(str(name), _number(name, value)) for name, value in (metrics or {}).items()])
        names = sum(len(_encoded(name, "metrics")) for name, _ in numbers)
        if len(numbers) > MAX_METRICS or names > MAX_METRIC_NAMES:
            raise StateError(
                f"a commit may have {MAX_METRICS} metrics with names of {MAX_METRIC_NAMES} bytes in all",
                path="metrics",
                remedy="put them into the state",
            )
        return cls(message, None if step is None else _whole(step), numbers, to_map(meta or {}))


def _encoded(text: str, path: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise StateError(f"text that is no Unicode: {error}", path=path, remedy="leave lone surrogates out") from error


def _number(name: object, value: object) -> float:
    item = getattr(value, "item", None)
    try:
        # item(), since float() warns of a tensor that requires a gradient, as a loss does
        return float(item() if callable(item) else value)  # type: ignore[arg-type]  # whatever is no number raises
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise StateError(f"this metric is no number: {error}", path=f"metrics.{name}", remedy="give a float") from error


def _whole(step: object) -> int:
    try:
        number = operator.index(step)  # type: ignore[arg-type]  # whatever is no whole number raises
    except TypeError as error:
        raise StateError(f"{step!r} is no step", path="step", remedy="give a whole number") from error
    if not -(1 << 63) <= number < 1 << 63:
        raise StateError("this number is no step", path="step", remedy="give one of 64 bits")
    return number
