"""numpy arrays and scalars as records, their dtypes as values. Arrays of objects are refused: they would be pickled."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.lib.format import descr_to_dtype, dtype_to_descr

from casckpt.objects.values import ArrayRecord, Typed, Value
from casckpt.tensors.leaf import Codec, LeafError, of_type

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Saved as the Python text and bytes that they are: as arrays, or by numpy's own str(), they would lose trailing zeros.
CODECS: Final = (
    Codec(np.str_, "numpy.str", str.__str__, lambda state: np.str_(of_type(state, str))),
    Codec(np.bytes_, "numpy.bytes", bytes, lambda state: np.bytes_(of_type(state, bytes))),
)

# C's long double differs between machines under one name ("<f16"), so its name is stored with its mantissa's bits.
_LONG_DOUBLE: Final = "long_double"
# Of its 16 bytes the 80-bit format of x86 uses ten.
_LONG_DOUBLE_BYTES: Final = 10 if np.finfo(np.longdouble).nmant == 63 else np.longdouble().nbytes
# Where two of C's integer types have one size, numpy has two types of one description; this marks the second one.
_LONG_LONG: Final = "long_long"
_LONG_LONGS: Final = {made.str: made for char in "qQ" for made in (np.dtype(char), np.dtype(char).newbyteorder())}


def as_plain(array: Array) -> tuple[Array, bool]:
    """The array with its elements side by side, and whether in Fortran's order; a copy only where they are not yet."""
    array = array.view(np.ndarray)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    if not (fortran or array.flags.c_contiguous):
        array = np.ascontiguousarray(array)
    if array.dtype.char in "gG" and array.dtype.isnative:
        array = _without_padding(array)
    return array, fortran


def _without_padding(array: Array) -> Array:
    """A copy in which the bytes that C leaves undefined behind each long double are zero: equal arrays, equal bytes."""
    array = array.copy(order="K")
    held = np.frombuffer(bytes_of(array), np.uint8) if array.size else np.empty(0, np.uint8)
    held.reshape(-1, np.longdouble().nbytes)[:, _LONG_DOUBLE_BYTES:] = 0
    return array


def bytes_of(array: Array) -> memoryview:
    """The bytes of a contiguous array, without a copy."""
    if array.nbytes == 0:
        return memoryview(b"")
    return (array if array.flags.c_contiguous else array.T).reshape(-1).view(np.uint8).data


def describe(dtype: np.dtype[Any]) -> Value:
    """A dtype as a value.

    Raises:
        LeafError: a dtype that does not come back the same from numpy's own description of it.
    """
    if dtype.hasobject:
        raise LeafError(
            f"a numpy array of dtype {dtype}, which holds Python objects",
            "save array.tolist(), or convert it to a dtype of numbers or fixed-length strings",
        )
    made = None
    if not _has_metadata(dtype):
        try:
            described = _describe(dtype)
            made = _made_of(described)
        except ValueError:  # numpy's own word for fields that overlap
            pass
    if made is None or made != dtype or made.type is not dtype.type:
        raise LeafError(
            f"a numpy array of dtype {dtype!r}, which does not come back the same from numpy's description of it",
            "convert it with .astype() to a dtype without metadata, subclasses or overlapping fields",
        )
    return described


def _describe(dtype: np.dtype[Any]) -> Value:
    if dtype.char in "qQ" and np.dtype(dtype.str).char != dtype.char:
        return Typed(_LONG_LONG, dtype.str)
    described = cast("Value", dtype_to_descr(dtype))
    if _has_long_double(dtype):
        return Typed(f"{_LONG_DOUBLE}:{np.finfo(np.longdouble).nmant}", described)
    return described


def _has_metadata(dtype: np.dtype[Any]) -> bool:
    if dtype.metadata or (dtype.subdtype and _has_metadata(dtype.subdtype[0])):
        return True
    return any(_has_metadata(field[0]) for field in (dtype.fields or {}).values())


def _has_long_double(dtype: np.dtype[Any]) -> bool:
    if dtype.subdtype:
        return _has_long_double(dtype.subdtype[0])
    if dtype.fields:
        return any(_has_long_double(field[0]) for field in dtype.fields.values())
    return dtype.char in "gG"


def dtype_of(described: Value) -> np.dtype[Any]:
    """The dtype that a value describes.

    Raises:
        TypeError, ValueError: it describes none.
        LeafError: this machine has not got it.
    """
    made = _made_of(described)
    try:
        if describe(made) == described:
            return made
    except LeafError as error:
        raise ValueError(error.problem) from error
    raise ValueError("a dtype is not described as numpy would")


def _made_of(described: Value) -> np.dtype[Any]:
    kind = ""
    if isinstance(described, Typed):
        kind, _, bits = described.name.partition(":")
        if kind == _LONG_DOUBLE and bits != str(np.finfo(np.longdouble).nmant):
            raise LeafError("an array of long doubles of another machine", "convert it to float64 where it was saved")
        described = described.value
    try:
        if kind == _LONG_LONG:
            return _LONG_LONGS[of_type(described, str)]
        return descr_to_dtype(_only_description(described))
    except (TypeError, ValueError):
        raise
    except Exception as error:  # numpy's parser of descriptions documents no errors of its own
        raise ValueError(str(error)) from error


def _only_description(described: object) -> Any:
    if isinstance(described, (list, tuple)):
        for item in described:
            _only_description(item)
    elif not isinstance(described, (str, int)):
        raise TypeError("a dtype described by something else than text and numbers")
    return described


def make_array(record: ArrayRecord, held: Array) -> object:
    """The array or scalar of a record over the bytes in `held`, which it keeps as its memory.

    Raises:
        TypeError, ValueError: the record describes no array of that many bytes.
        LeafError: this machine has not got its dtype.
    """
    dtype = dtype_of(record.dtype)
    elements = 1
    for size in record.shape:
        elements *= size
    if elements * dtype.itemsize != held.nbytes:
        raise ValueError(f"an array of shape {record.shape} and dtype {dtype} does not have {held.nbytes} bytes")
    array: Array = np.ndarray(record.shape, dtype, buffer=held.data, order="F" if record.fortran else "C")
    if not record.scalar:
        return array
    if record.shape:
        raise ValueError("a scalar with dimensions")
    return array[()]
