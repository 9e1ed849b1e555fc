"""Files of torch.save, zip or older. Read by weights_only always, written so that weights_only reads them again."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path
from typing import IO, Any, Final, cast

import torch

from casckpt.errors import CasckptError, ExportError, ImportFormatError
from casckpt.objects.tree import canonical
from casckpt.tensors.flatten import Flat, flatten
from casckpt.tensors.formats.replace import Progress, Writer, written
from casckpt.tensors.formats.torch_leaves import check_torch
from casckpt.tensors.formats.torch_numpy import SAFE, settled
from casckpt.tensors.memory import records

# safe_globals changes a table of the whole process, and takes out what it put in.
_reading: Final = threading.Lock()
# Items of a state for each byte of its pickle: containers that are met several times count so often.
_ITEMS_A_BYTE: Final = 16


def read_torch(path: Path) -> Any:
    """The state in a file. Of a zip file the tensors lie in a map of it.

    Raises:
        ImportFormatError: it is damaged, or holds what weights_only does not read.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        most = _check_zip(path) if zipped else path.stat().st_size
        with _reading, torch.serialization.safe_globals(SAFE):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
        return settled(state, 1024 + _ITEMS_A_BYTE * most)
    except ImportFormatError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # a pickle can be wrong in every way
        raise ImportFormatError(
            f"torch cannot read it with weights_only: {_first_sentence(error)}",
            file=str(path),
            remedy="where you trust it, load it with torch and commit its state_dict()",
        ) from error


def _first_sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    found = text.partition("WeightsUnpickler error: ")[2] or text
    return found.strip().partition("\n")[0].partition(". ")[0]


def _check_zip(path: Path) -> int:
    """Refuse a zip file that says more than it has; returns the bytes of its pickles."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        found = archive.infolist()
    names = [item.filename for item in found]
    if len(set(names)) != len(names):
        raise ImportFormatError("a name stands in it twice", file=str(path))
    if any(item.compress_type != zipfile.ZIP_STORED for item in found):
        raise ImportFormatError("it is compressed, as torch never does", file=str(path), remedy="save it with torch")
    if sum(item.file_size for item in found) > size:
        raise ImportFormatError("it says that it holds more bytes than it has", file=str(path))
    return sum(item.file_size for item in found if item.filename.endswith(".pkl"))


# -- writing -----------------------------------------------------------------------------------------------------------


def write_torch(state: Any, target: Path, progress: Progress | None) -> tuple[int, int]:
    """Write a state by torch.save, and read it back before it counts; returns the bytes and the number of tensors.

    Raises:
        UnsupportedTypeError: something in it would not come back by weights_only; named by its path.
        ExportError, ExportFullError
    """
    flat = flatten(state)
    check_torch(state)
    total = sum(span.length for span in flat.spans)
    with written(target, total, progress) as writer:
        output = _Quiet(writer)
        torch.save(state, cast(IO[bytes], output))
        output.settle()
        writer.sync()
        try:
            back = flatten(read_torch(writer.part))
        except ImportFormatError as error:
            raise ExportError(f"torch would not read it again: {error.problem}", file=str(target)) from error
        if _outline(back) != _outline(flat):
            raise ExportError("torch would read something else again", file=str(target), remedy="use safetensors")
    return writer.written, sum(1 for _ in records(flat.value))


def _outline(flat: Flat) -> bytes:
    """All of a state but the bytes of its tensors."""
    return canonical(flat.value, [span.length.to_bytes(8, "big") for span in flat.spans])


class _Quiet:
    """A file for torch.save, which ends the process where writing raises: the error waits until torch is done."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._error: CasckptError | None = None

    def write(self, data: Any) -> int:
        """Write, or only count once something went wrong."""
        if self._error is None:
            try:
                self._writer.write(data)
            except CasckptError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def settle(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error
