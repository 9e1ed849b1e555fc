"""Codecs for the types of Python's own library that training states hold."""

from __future__ import annotations

import argparse
import pathlib
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any, Final

from casckpt.objects.values import METADATA
from casckpt.tensors.leaf import Codec, LeafError, all_of_type, of_type


class _Metadata(Enum):
    """The key that METADATA stands for. No state has it of its own."""

    KEY = METADATA.name


def _only_items(mapping: Any) -> dict[Any, Any]:
    """The items of a dict subclass, which must have nothing beside them."""
    extra = list(vars(mapping))
    if extra:
        raise LeafError(
            f"a {type(mapping).__name__} has attributes that would be lost: {', '.join(extra)}",
            "save them under keys of their own and delete them from it, or save dict(...) of it",
        )
    return dict(mapping)


def _encode_ordered_dict(mapping: Any) -> dict[Any, Any]:
    # torch.nn.Module.state_dict() keeps the versions of modules in an attribute, and load_state_dict() goes by them
    if set(vars(mapping)) == {"_metadata"}:
        return {_Metadata.KEY: mapping._metadata, **mapping}
    return _only_items(mapping)


def _decode_ordered_dict(state: object) -> OrderedDict[Any, Any]:
    mapping: OrderedDict[Any, Any] = OrderedDict(of_type(state, dict))
    if _Metadata.KEY in mapping:
        mapping._metadata = mapping.pop(_Metadata.KEY)  # type: ignore[attr-defined]  # as torch sets it
    return mapping


_FACTORIES: Final[dict[str, Callable[[], Any] | None]] = {
    "": None,
    "counter": Counter,
    "ordered_dict": OrderedDict,
    **{cls.__name__: cls for cls in (bool, bytes, complex, dict, float, int, list, set, str, tuple)},
}


def _factory_name(mapping: Any) -> str:
    for name, factory in _FACTORIES.items():
        if mapping.default_factory is factory:
            return name
    raise LeafError(
        f"a defaultdict whose factory is {mapping.default_factory!r}",
        "save dict(...) of it; factories that can be saved are None and the plain types, such as int, list and dict",
    )


def _decode_default_dict(state: object, factory: str) -> defaultdict[Any, Any]:
    return defaultdict(_FACTORIES[factory], of_type(state, dict))


def _decode_counter(state: object) -> Counter[Any]:
    counter: Counter[Any] = Counter()
    dict.update(counter, of_type(state, dict))
    return counter


def _deque_bound(items: Any) -> str:
    return "" if items.maxlen is None else str(items.maxlen)


def _decode_deque(state: object, bound: str) -> deque[Any]:
    items = of_type(state, list)
    made = deque(items, int(bound) if bound else None)
    if len(made) != len(items):
        raise ValueError("more items than the deque may have")
    return made


def _decode_namespace(cls: type) -> Callable[[object], object]:
    def decode(state: object) -> object:
        made = cls()
        vars(made).update({of_type(key, str): item for key, item in of_type(state, dict).items()})
        return made

    return decode


def _decode_complex(state: object) -> complex:
    return complex(*all_of_type(state, float, 2))


def _encode_zone(zone: tzinfo | None) -> tzinfo | None:
    if zone is not None and type(zone) is not timezone:
        raise LeafError(
            f"a time in the zone {zone!r}, whose rules are not part of it", "convert it: .astimezone(timezone.utc)"
        )
    return zone


def _decode_zone(zone: object) -> timezone | None:
    return None if zone is None else of_type(zone, timezone)


def _encode_datetime(moment: Any) -> object:
    day = (moment.year, moment.month, moment.day)
    clock = (moment.hour, moment.minute, moment.second, moment.microsecond, moment.fold)
    return (*day, *clock, _encode_zone(moment.tzinfo))


def _decode_datetime(state: object) -> datetime:
    *numbers, zone = of_type(state, tuple)
    *clock, fold = all_of_type(tuple(numbers), int, 8)
    year, month, day, hour, minute, second, microsecond = clock
    return datetime(year, month, day, hour, minute, second, microsecond, _decode_zone(zone), fold=fold)


def _encode_time(clock: Any) -> object:
    return (clock.hour, clock.minute, clock.second, clock.microsecond, clock.fold, _encode_zone(clock.tzinfo))


def _decode_time(state: object) -> time:
    *numbers, zone = of_type(state, tuple)
    *clock, fold = all_of_type(tuple(numbers), int, 5)
    hour, minute, second, microsecond = clock
    return time(hour, minute, second, microsecond, _decode_zone(zone), fold=fold)


def _decode_timezone(state: object) -> timezone:
    offset, *name = of_type(state, tuple)
    return timezone(of_type(offset, timedelta), *[of_type(item, str) for item in name])


def _decode_ints(cls: Callable[..., object], count: int) -> Callable[[object], object]:
    return lambda state: cls(*all_of_type(state, int, count))


_PATHS: Final = {
    cls.__name__: cls
    for cls in (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath)
}


def _decode_path(state: object, kind: str) -> pathlib.PurePath:
    text = of_type(state, str)
    try:
        return _PATHS[kind](text)
    except NotImplementedError as error:
        raise LeafError(
            f"a {kind}, which this system has not", "load it where it was saved, or save str(path)"
        ) from error


CODECS: Final = (
    Codec(_Metadata, METADATA.name, lambda key: None, lambda state: _Metadata.KEY),
    Codec(OrderedDict, "ordered_dict", _encode_ordered_dict, _decode_ordered_dict),
    Codec(defaultdict, "default_dict", dict, _decode_default_dict, _factory_name),
    Codec(Counter, "counter", _only_items, _decode_counter),
    Codec(deque, "deque", list, _decode_deque, _deque_bound),
    Codec(bytearray, "bytearray", bytes, lambda state: bytearray(of_type(state, bytes))),
    Codec(argparse.Namespace, "namespace", vars, _decode_namespace(argparse.Namespace)),
    Codec(types.SimpleNamespace, "simple_namespace", vars, _decode_namespace(types.SimpleNamespace)),
    Codec(complex, "complex", lambda number: (number.real, number.imag), _decode_complex),
    Codec(Decimal, "decimal", str, lambda state: Decimal(of_type(state, str))),
    Codec(Fraction, "fraction", lambda number: number.as_integer_ratio(), _decode_ints(Fraction, 2)),
    Codec(date, "date", lambda day: (day.year, day.month, day.day), _decode_ints(date, 3)),
    Codec(
        timedelta, "timedelta", lambda span: (span.days, span.seconds, span.microseconds), _decode_ints(timedelta, 3)
    ),
    Codec(timezone, "timezone", lambda zone: zone.__getinitargs__(), _decode_timezone),
    Codec(datetime, "datetime", _encode_datetime, _decode_datetime),
    Codec(time, "time", _encode_time, _decode_time),
    *(Codec(cls, "path", str, _decode_path, lambda path: type(path).__name__) for cls in _PATHS.values()),
)
