"""Looks at the pages of a value before LMDB frees them: it believes the head that says where and how many they are.

A damaged head would give away pages that others use. It is looked at before anything is changed, and must cost next
to nothing: the head is in memory, where LMDB is about to read it.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from casckpt.store.layout import NODE, OVERFLOW, PAGE, run_of

# Bytes of a value that tell it from any other: of an object, they hold its id.
_BEGIN: Final = 64


class _Buffer(ctypes.Structure):
    """Py_buffer, of Python's C API."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("rest", ctypes.c_void_p * 5),
    )


# Of the C API, with what they take: found out anew at each call, it would cost more than the call.
_get_buffer = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p, ctypes.c_int)(
    ("PyObject_GetBuffer", ctypes.pythonapi)
)
_release = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(("PyBuffer_Release", ctypes.pythonapi))


def has_own_pages(key: int, value: int, page_size: int) -> bool:
    """Whether a value of so many bytes, under a key of so many, has pages of its own (mdb.c: me_nodemax)."""
    return NODE.size + key + value > ((page_size - PAGE.size) // 2 & -2) - 2


def problem_of(data: Path, value: memoryview, page_size: int, last_page: int) -> str | None:
    """What is wrong with the head of a value's own pages, as the map shows it; "" if nothing is, and None if they are
    more than the value needs: so they are where it was written twice in one transaction, a longer one first.

    value: a view into the map, of what was committed.
    """
    head = _before(value)
    number, _, flags, low, high = PAGE.unpack(head)
    pages, needed = low | high << 16, run_of(len(value), page_size)
    if flags != OVERFLOW or pages < needed or not 2 <= number <= last_page + 1 - pages:
        return f"the head of a value's {needed} pages says that they are {pages} from page {number} on, of kind {flags}"
    descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.pread(descriptor, PAGE.size + min(_BEGIN, len(value)), number * page_size)
    except OSError as error:
        return f"page {number}, the first of a value's, cannot be read: {error}"
    finally:
        os.close(descriptor)
    if there != head + value[:_BEGIN]:
        return f"the head of a value's pages says that it is page {number}, and that is another"
    return "" if pages == needed else None


def _before(value: memoryview) -> bytes:
    """The head of the page that a value begins in, right behind that."""
    view = _Buffer()
    where = ctypes.byref(view)
    _get_buffer(value, where, 0)
    try:
        return ctypes.string_at(view.buf - PAGE.size, PAGE.size)
    finally:
        _release(where)
